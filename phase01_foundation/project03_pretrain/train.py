"""Pre-train the base model that the rest of the course stands on.

Text becomes token files, token files become batches, and the loop of common.training does the rest: alone, or
on several processes under torchrun. The run ends with a model folder, a report, samples, and what the model
knows of TinyTown.
"""

import sys
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import torch

from common import checkpoint, hub, plots
from common import tokenizer as tokenizers
from common.cli.paths import models
from common.cli.script import script
from common.device import dtype_for, reset_peak, seed_all
from common.errors import UserError
from common.process import group, on_first, rank, world_size
from common.training import TrainConfig, train
from data.tinytown import TinyTown

from . import _report, _text, probe
from ._build import OPTIMIZERS, build, recompute, spread
from .objectives import CausalLM

EVALUATED = 60_000  # tokens of the validation split that are looked at during training


@dataclass(frozen=True)
class Config:
    corpus: str = "tinytown,python-manual"
    """Corpora to learn from, with commas between; a text file or a folder of mixed files may be among
    them."""
    characters: int = 12_000_000
    """Characters of each corpus to read at most; 0: all. TinyTown is written to this length."""
    tokens: int = 3_000_000
    """Tokens to train on; where the text has fewer, it is read again."""
    n_layer: int = 6
    """Blocks, one above the other."""
    n_head: int = 8
    """Query heads in a block."""
    n_kv_head: int = 4
    """Key and value heads in a block; each serves n_head / n_kv_head queries."""
    d_model: int = 256
    """Numbers per token."""
    d_ff: int = 640
    """Numbers inside a feed-forward."""
    context: int = 512
    """Tokens that the model sees at once."""
    batch_size: int = 4
    """Sequences in an update, over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches in an update: less memory, the same gradient."""
    optimizer: Literal["adamw", "fused", "muon", "lion", "ademamix"] = "muon"
    """Who moves the weights; muon leaves embedding and norms to adamw; fused is torch's AdamW in one pass."""
    learning_rate: float = 6e-3
    """Highest size of an update; it warms up over a twentieth of the run and falls to a twentieth of
    itself. With muon the embedding moves faster."""
    weight_decay: float = 0.1
    """Decay of matrices."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 multiplies in bfloat16 under autocast; auto does so where the machine has units for it."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Have torch.compile make the objective faster; the first step waits for it."""
    shard: bool = False
    """Under torchrun: FSDP2, where each process holds a share of the weights; otherwise DDP, with copies."""
    tokenizer: str = ""
    """Folder of a tokenizer; empty: models/tokenizer, and where there is none, one learned from the text."""
    vocab_size: int = 2_000
    """Ids of a tokenizer that is learned here."""
    evals: int = 10
    """Evaluations and checkpoints over the run."""
    save: bool = True
    """Save the model as models/base, for the projects that follow."""
    tracker: str = ""
    """trackio, tensorboard or wandb, to follow the run there too."""
    seed: int = 1337
    """Start of the random numbers: weights and the order of the text."""

    def __post_init__(self):
        for name in ("tokens", "batch_size", "evals", "context"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.characters < 0:
            raise UserError(f"characters is {self.characters}: give a count, or 0 for all of the text")
        if self.shard and self.optimizer == "muon":
            raise UserError(
                "muon needs whole matrices and --shard cuts them: add --optimizer adamw, or leave --shard out"
            )

    @property
    def steps(self):
        return -(-self.tokens // (self.batch_size * self.context))

    def micro_batch(self, world):
        """Sequences in one micro-batch of one of `world` processes."""
        parts = world * self.accumulate
        if self.batch_size % parts:
            raise UserError(
                f"batch_size {self.batch_size} cannot be cut into {world} processes times "
                f"{self.accumulate} micro-batches: make it a multiple of {parts}"
            )
        return self.batch_size // parts

    def train_config(self, device):
        fast = dtype_for(device) == torch.bfloat16
        bf16 = self.precision == "bf16" or (self.precision == "auto" and fast)
        every = -(-self.steps // self.evals)
        return TrainConfig(
            steps=self.steps, learning_rate=self.learning_rate, min_learning_rate=self.learning_rate / 20,
            warmup=self.steps // 20, weight_decay=self.weight_decay, beta2=0.95, accumulate=self.accumulate,
            precision="bf16" if bf16 else "fp32", log_every=-(-self.steps // 2000), eval_every=every,
            save_every=every)  # fmt: skip


PRESETS = {
    "smoke": Config(characters=150_000, tokens=50_000, n_layer=2, n_head=4, n_kv_head=2, d_model=64, d_ff=128,
                    context=64, batch_size=8, learning_rate=1e-2, vocab_size=600, evals=2, save=False),
    "cpu": Config(),
    "gpu": Config(characters=200_000_000, tokens=400_000_000, n_layer=12, n_head=14, n_kv_head=14,
                  d_model=896, d_ff=2432, context=1024, batch_size=128, accumulate=4, learning_rate=1e-3,
                  compile=True),
    "paper": Config(corpus="wikitext103", characters=0, tokens=1_200_000_000, n_layer=12, n_head=14,
                    n_kv_head=14, d_model=896, d_ff=2432, context=1024, batch_size=128, accumulate=4,
                    learning_rate=1e-3, compile=True, save=False),
}  # fmt: skip


def prepare(config, folder, say=print):
    """The tokenizer and the token files of a run, made where they are not there yet."""
    corpus = on_first(lambda: _text.resolve(config.corpus, say))
    own = folder / "tokenizer"
    place = on_first(
        lambda: str(
            _text.find_tokenizer(config.tokenizer, own, corpus, config.characters, config.vocab_size, say)
        )
    )
    tokenizer = tokenizers.load(Path(place))
    on_first(lambda: _text.write_tokens(corpus, config.characters, tokenizer, say))
    files = _text.read_tokens(corpus, config.characters, tokenizer, _silent)
    return _text.Text(tokenizer, *files, corpus)


def _silent(text):
    """What the other ranks would say again."""


def fit(config, text, device, folder, *, resume=False, say=print):
    """Train a new model on the text; returns it, whole and on this process's device, and the history."""
    micro = config.micro_batch(world_size())
    seed_all(config.seed)
    model = build(config, text.tokenizer.vocab_size).to(device)
    objective = CausalLM(recompute(model) if config.checkpointing else model)
    if config.compile:
        objective.compile()
    objective = spread(objective, config.shard, device)

    def batch_at(i):
        batch = text.train.batch(
            config.seed, i, rank(), world_size(), batch_size=micro, context=config.context
        )
        if device.type == "cuda":  # pragma: no cover - gpu
            return tuple(part.pin_memory().to(device, non_blocking=True) for part in batch)
        return batch

    def evaluate():
        rows = list(
            islice(
                text.valid.sweep(batch_size=micro, context=config.context),
                max(1, EVALUATED // (micro * config.context)),
            )
        )
        counted = [(objective((x.to(device), y.to(device))).item(), y.numel()) for x, y in rows]
        return {"val_loss": sum(loss * n for loss, n in counted) / sum(n for _, n in counted)}

    history = train(
        objective,
        batch_at,
        config.train_config(device),
        folder=folder,
        resume=resume,
        say=say,
        evaluate=evaluate,
        optimizer=OPTIMIZERS[config.optimizer],
        tracker=config.tracker or None,
    )
    whole = build(config, text.tokenizer.vocab_size).to(device)
    checkpoint.load_weights(CausalLM(whole), checkpoint.weights(objective))
    return whole.eval(), history


def judge(model, text, say):
    """Loss, perplexity and bits per byte over the whole validation split; TinyTown's questions, if it was
    read."""
    context = model.config.max_seq_len
    batches = text.valid.sweep(batch_size=max(1, 8192 // context), context=context)
    found = probe.surprise(model, batches, probe.byte_lengths(text.tokenizer))
    metrics = {
        "val_loss": found["loss"],
        "perplexity": found["perplexity"],
        "bits_per_byte": found["bits_per_byte"],
    }
    say(
        f"on {found['tokens']:,} unseen tokens: {found['loss']:.4f} nats a token, perplexity "
        f"{found['perplexity']:.2f}, {found['bits_per_byte']:.4f} bits per byte"
    )
    if _text.TOWN in text.corpus.split(","):
        metrics |= probe.quiz(model, text.tokenizer, TinyTown())
        say(
            "TinyTown, pairs never asked in training: {knowledge_plain:.0%} of the questions, "
            "{knowledge_cloze:.0%} of the sentences (guessing: {knowledge_guess:.0%})".format(**metrics)
        )
        strangers = (
            "{strangers:.0%} (guessing: {strangers_guess:.0%})"
            if "strangers" in metrics
            else ("{context} tokens of context are too few for a page about them")
        )
        say("strangers, told of in the prompt: " + strangers.format(context=context, **metrics))
    return metrics


def save(model, text, config, metrics, folder):
    """A model folder: weights, sizes, tokenizer, and a card that says what it was made from."""
    card = {
        "made_by": "project03_pretrain",
        "command": " ".join(sys.argv),
        "config": asdict(config),
        "corpus": text.corpus,
        "tokens": config.steps * config.batch_size * config.context,
        "parameters": sum(p.numel() for p in model.parameters()),
        "metrics": metrics,
        "tokenizer": text.tokenizer.sha256,
    }
    hub.save(model, folder, tokenizer=text.tokenizer, card=card)


def finish(model, history, text, config, run, device):
    """Everything that comes after training: the report, the scores, samples, the model folder."""
    metrics = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": config.steps * config.batch_size * config.context,
    }
    precision = config.train_config(device).precision
    metrics |= _report.speed(model, history.speed, device, precision, world_size())
    run.say(
        "{tokens_per_s:,.0f} tokens/s, {mfu:.1%} of the peak in use, {peak:.2f} GB at most".format(
            **metrics, peak=metrics["peak_memory_bytes"] / 1e9
        )
    )
    _report.show_ranges(_report.ranges(*history.series("loss")), run.say)
    metrics |= judge(model, text, run.say)
    for seed in (1, 2):
        run.say(f"{'-' * 34} a sample {'-' * 34}\n{probe.write(model, text.tokenizer, seed=seed)}")
    title = f"{metrics['parameters'] / 1e6:.1f}M weights: {metrics['val_loss']:.3f} nats a token"
    run.say(f"{'-' * 78}\ncurves: {plots.save(_report.curves(history, title), run.folder / 'loss.png')}")
    for folder in [run.folder / "model", *([models() / "base"] if config.save else [])]:
        save(model, text, config, metrics, folder)
        run.say(f"saved: {folder}")
    run.finish(metrics, corpus=text.corpus)


def main(config, run):
    with group(run.device) as device:
        text = prepare(config, run.folder, run.say)
        size = build(config, text.tokenizer.vocab_size)
        run.say(
            f"{text.corpus}: {text.train.n_tokens:,} tokens to train on, {text.valid.n_tokens:,} held "
            f"out; {sum(p.numel() for p in size.parameters()):,} weights, {config.steps:,} updates of "
            f"{config.batch_size * config.context:,} tokens"
        )
        reset_peak(device)
        model, history = fit(config, text, device, run.folder, resume=run.resumed, say=run.say)
        if rank() == 0:
            finish(model, history, text, config, run, device)


if __name__ == "__main__":
    script(main, PRESETS)
