"""Fine-tune a model with LoRA, with QLoRA, or whole, and save the adapter and the merged model.

The default reads TinyTown's instructions with the base model of project 3. The preset paper takes a Llama or
Qwen of any size through transformers, bitsandbytes and peft, and says first what memory that will need.
"""

import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from common import hub, plots
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.paths import models
from common.cli.script import script
from common.device import dtype_for, peak_memory, reset_peak, seed_all
from common.errors import demand
from common.training import TrainConfig, train
from phase02_finetuning.project04_sft.sft import AnswerLoss, pack

from . import _build, _paper, adapter, lora

HELD_OUT = 230  # rows whose loss is watched


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    method: Literal["lora", "qlora", "full"] = "lora"
    """lora: thin matrices beside frozen ones; qlora: the frozen ones in 4 bits; full: every weight."""
    rank: int = 3
    """Rank of the adapters."""
    alpha: float = 6.0
    """How strongly an adapter counts; its scale is alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is zeroed in training."""
    rslora: bool = False
    """Scale by alpha / √rank instead."""
    dora: bool = False
    """Also learn the length of each row of a matrix."""
    targets: tuple[str, ...] = lora.MATRICES
    """Which matrices have adapters; head may be among them."""
    rows: int = 24_000
    """Rows of TinyTown to learn from."""
    epochs: float = 2.0
    """How often each row is read."""
    batch_size: int = 48
    """Examples in an update, packed into rows of a context."""
    context: int = 256
    """Tokens in a row of a batch at most."""
    learning_rate: float = 5e-3
    """Highest size of an update; it warms up over a twentieth of the run and falls to a twentieth of
    itself."""
    weight_decay: float = 0.0
    """Decay of the matrices that are trained."""
    optimizer: Literal["adamw", "adamw8bit", "paged"] = "adamw"
    """adamw8bit keeps its state in 8 bits, through bitsandbytes; paged may lay it aside on a full GPU."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 multiplies in bfloat16 under autocast; auto does so where the machine has units for it."""
    frozen: Literal["float32", "bfloat16"] = "float32"
    """What the frozen weights are kept in during training; the merged model is as the base was."""
    libraries: bool = False
    """Go through transformers, bitsandbytes and peft: any Llama- or Qwen-shaped model, in 4 bits."""
    accumulate: int = 1
    """Micro-batches in an update: less memory, nearly the same gradient."""
    memory_gb: float = 0.0
    """Memory that libraries may use, in GB; 0: what is free now."""
    evals: int = 8
    """Evaluations and checkpoints over the run."""
    judged: int = 20
    """Held-out rows of each family of TinyTown that are asked; 0: none."""
    save: bool = True
    """Save the merged model as models/lora, and the adapter in it."""
    seed: int = 1337
    """Start of the random numbers: the adapters, the rows of TinyTown and their order."""

    def __post_init__(self):
        for name in ("rows", "batch_size", "evals", "accumulate"):
            demand(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: it must be at least 1")
        demand(self.judged >= 0, f"judged is {self.judged}: it must be at least 0")
        demand(self.context >= 8, f"context is {self.context}: it must be at least 8")
        demand(self.epochs > 0, f"epochs is {self.epochs}: it must be above 0")
        moves = self.method == "full" and self.frozen != "float32"
        demand(not moves, "every weight is trained, and small steps are lost in bfloat16: --frozen float32")
        demand(not self.libraries or self.method == "qlora", "--libraries loads in 4 bits: --method qlora")
        headless = not (self.libraries and "head" in self.targets)
        demand(headless, "--libraries puts no adapter on the head: leave it out of --targets")
        whole = self.batch_size % self.accumulate == 0
        demand(whole, f"batch_size {self.batch_size} cannot be cut into {self.accumulate} micro-batches")
        self.lora_config  # noqa: B018 - says now what would be wrong later

    @property
    def lora_config(self):
        return lora.LoRAConfig(self.rank, self.alpha, self.dropout, self.rslora, self.dora, self.targets)

    def train_config(self, device):
        bf16 = self.precision == "bf16" or (self.precision == "auto" and dtype_for(device) == torch.bfloat16)
        steps = max(1, round(self.epochs * -(-self.rows // self.batch_size)))
        every = -(-steps // self.evals)
        return TrainConfig(steps=steps, learning_rate=self.learning_rate, warmup=steps // 20, beta2=0.95,
                           min_learning_rate=self.learning_rate / 20, weight_decay=self.weight_decay,
                           precision="bf16" if bf16 else "fp32", log_every=-(-steps // 500),
                           eval_every=every, save_every=every, accumulate=self.accumulate)  # fmt: skip


PRESETS = {
    "smoke": Config(rows=48, epochs=1, batch_size=8, context=64, evals=2, judged=1, save=False),
    "cpu": Config(),
    "gpu": Config(rank=16, alpha=32, rows=200_000, batch_size=256, context=512, judged=100,
                  learning_rate=1e-3, frozen="bfloat16"),
    "paper": Config(model="Qwen/Qwen3-8B", method="qlora", libraries=True, rank=16, alpha=32, dropout=0.05,
                    rows=10_000, epochs=1, batch_size=16, accumulate=16, context=512, learning_rate=2e-4,
                    optimizer="paged", checkpointing=True, precision="bf16", judged=0, save=False),
}  # fmt: skip


def fit(model, tokenizer, config, run):
    """Train a model in place as the config says; returns the history."""
    context, pad_id = min(config.context, model.config.max_seq_len), tokenizer.pad_id
    learn, held = (
        _build.examples(tokenizer, _build.rows(split, n, config.seed), context)
        for split, n in (("train", config.rows), ("held-out", min(HELD_OUT, config.rows)))
    )

    def join(part):
        return pack(part, context, pad_id).to(run.device)

    batch_at = _build.batches(learn, join, size=config.batch_size // config.accumulate, seed=config.seed)
    seed_all(config.seed)
    _build.dress(model, config)
    trained, every = _build.count(model)
    run.say(f"{config.method}: {trained:,} of {every:,} weights are trained, {trained / every:.2%}")
    objective = AnswerLoss(model)
    objective.train()
    return train(objective, batch_at, config.train_config(run.device), folder=run.folder, say=run.say,
                 resume=run.resumed, optimizer=_build.OPTIMIZERS[config.optimizer],
                 evaluate=lambda: {"val_loss": _build.answer_loss(model, held, context, pad_id, run.device)})


def plain(model, base, config, run):
    """The tuned model without adapters, which may be saved; the adapter goes into a folder of its own.

    Adapters go onto the base as it lies on the disk. Over 4-bit matrices they were trained beside what the
    codes stand for, and that is what they are merged with.
    """
    if config.method == "full":
        return _build.undress(model)
    adapter.save(model, run.folder / "adapter", str(base))
    megabytes = (run.folder / "adapter" / adapter.WEIGHTS).stat().st_size / 1e6
    run.say(f"adapter, {megabytes:.2f} MB: {run.folder / 'adapter'}")
    if config.method == "qlora":
        return _build.undress(model).float()
    return lora.merge(adapter.load(hub.load(base, device=run.device), run.folder / "adapter"))


def save(model, tokenizer, config, metrics, base, run):
    """The merged model, into the run's folder and if asked as models/lora, with the adapter in it."""
    card = {"made_by": "project05_lora", "command": " ".join(sys.argv), "config": asdict(config),
            "base": str(base), "metrics": metrics}  # fmt: skip
    for folder in [run.folder / "model", *([models() / "lora"] if config.save else [])]:
        hub.save(model, folder, tokenizer=tokenizer, card=card)
        run.say(f"merged model: {folder}")
    if config.save and config.method != "full":
        shutil.copytree(run.folder / "adapter", models() / "lora" / "adapter", dirs_exist_ok=True)


def judge(model, tokenizer, config, before, run):
    """The scores on held-out rows, beside those from before; nothing where none are asked for."""
    if not config.judged:
        return {}
    after = _build.score(model, tokenizer, config.judged)
    for name in after:
        run.say(f"{name:12} {before[name]:8.0%} before {after[name]:8.0%} after")
    return after | {"base: score": before["score"]}


def main(config, run):
    if config.libraries:
        return _paper.main(config, run)
    folder = chain.find("base", config.model, say=run.say)
    tokenizer, model = tokenizers.load(folder), hub.load(folder, device=run.device)
    before = _build.score(model, tokenizer, config.judged) if config.judged else {}
    model.to(getattr(torch, config.frozen))
    reset_peak(run.device)
    history = fit(model, tokenizer, config, run)
    trained, every = _build.count(model)
    last = history.train[-1]
    metrics = {"val_loss": history.evals[-1]["val_loss"], "trained": trained, "share": trained / every,
               "peak_memory_bytes": peak_memory(run.device), "seconds": last["seconds"],
               "tokens_per_s": last["tokens"] / last["seconds"]}  # fmt: skip
    run.say("{val_loss:.4f} nats a token of unseen answers; {tokens_per_s:,.0f} tokens/s".format(**metrics))
    run.say(f"{metrics['peak_memory_bytes'] / 1e9:.2f} GB at most")
    tuned = plain(model, folder, config, run)
    metrics |= judge(tuned, tokenizer, config, before, run)
    title = f"{config.method}, rank {config.rank}" if config.method != "full" else "every weight"
    curve = plots.loss_curve(history.series("loss"), history.series("val_loss"), title=title,
                             unit="nats per token")  # fmt: skip
    run.say(f"curve: {plots.save(curve, run.folder / 'loss.png')}")
    save(tuned, tokenizer, config, metrics, folder, run)
    run.finish(metrics, corpus="tinytown")
    return None


if __name__ == "__main__":
    script(main, PRESETS)
