"""Measure the claims: what the tuned model answers, packing against padding, an update beside TRL's.

The speeds are taken at GPT-2's 124M shape with random weights, and at the shape of the course's base model.
"""

import tempfile

import torch

from common import hub
from common import tokenizer as tokenizers
from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench
from common.cli.paths import models
from common.device import dtype_for
from common.model import GPT, ModelConfig
from common.recipe import TrainConfig, adamw

from . import _judge, _trl, rows
from .sft import IGNORE, AnswerLoss, Example, encode, every_logit, pack, pad

SPEED = {"unit": "tok/s", "better": "higher"}
SKILLS = {
    "follows": ("The tuned model follows instructions about facts that it was never asked for: 85 % over "
                "knowledge, lists, JSON, persona and refusal", 0.85),
    "knowledge": ("It answers 90 % of the held-out questions about the town to the letter", 0.90),
}  # fmt: skip
SHAPES = {
    "124M": {"vocab_size": 50304, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048},
    "6.7M": {"vocab_size": 10_000, "n_layer": 6, "n_head": 8, "n_kv_head": 4, "d_model": 256, "d_ff": 640},
    "tiny": {"vocab_size": 10_000, "n_layer": 1, "n_head": 2, "n_kv_head": 2, "d_model": 16, "d_ff": 32},
}
B, T = 4, 256


# ---- what it can do ----


def bench_skills(b):
    """The scores of models/base and models/sft, by TinyTown's own checkers, on held-out pairs and people."""
    judged = b.pick(smoke=1, quick=4, full=40)
    if b.mode != "smoke" and not chain.whole(models() / "sft"):
        for name, (sentence, goal) in SKILLS.items():
            b.not_run(name, sentence, headline=name == "follows", unit="answered rightly", better="higher",
                      goal=(">=", goal), why="there is no models/sft yet: ./thirty run 4")  # fmt: skip
        return
    sides = {}
    for link in ("base", "sft"):
        folder = chain.find(link)
        model = hub.load(folder, device=b.device).eval()
        sides[link] = _judge.skills(model, tokenizers.load(folder), judged, splits=("held-out",))
    families = {name: value for name, value in sides["sft"].items() if name.startswith("held-out")}
    guessed = _judge.chance(_judge.questions(judged, "held-out"))
    for name, (sentence, goal) in SKILLS.items():
        b.claim(name, sentence, headline=name == "follows", unit="answered rightly", better="higher",
                goal=(">=", goal), measured=values("tuned", [sides["sft"][f"held-out: {name}"]]),
                why=f"the base model in the same format: {sides['base'][f'held-out: {name}']:.1%}",
                settings={"rows a family": judged, **families, **{f"guessing: {n}": v for n, v in
                                                                  guessed.items()}})  # fmt: skip


# ---- speed ----


def short(shape: str) -> str:
    """A shape's name as a claim's id may spell it."""
    return shape.lower().replace(".", "-")


def model_of(b, shape):
    """A model with random weights of a shape; tied, as GPT-2 is."""
    torch.manual_seed(0)
    return GPT(ModelConfig(**SHAPES[shape], max_seq_len=1024, tie_embeddings=True)).to(b.device)


def update(model, objective, batch, bf16):
    """A function that makes one whole update and returns the loss: forward, backward, clip, AdamW."""
    module = AnswerLoss(model)
    optimizer = adamw(module, TrainConfig(learning_rate=1e-4, weight_decay=0.0, beta2=0.999))
    device = next(model.parameters()).device

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = objective(module, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def answers(module, batch):
    return module(batch)


def every(module, batch):
    return every_logit(module.model, batch)


def conversations(b, tokenizer) -> list[Example]:
    """So many rows of TinyTown that packed they fill B x T and no more."""
    found = [encode(row["messages"], tokenizer) for row in rows.read(rows.TOWN, 200).rows]
    chosen = []
    for example in (example for example in found if len(example.tokens) <= T):
        if pack([*chosen, example], T, tokenizer.pad_id).tokens.size(0) > B:
            break
        chosen.append(example)
    return chosen


def bench_packing(b, tokenizer, shape):
    """The same conversations one a row, and packed; both with the loss that reads only the answers."""
    examples, bf16 = conversations(b, tokenizer), dtype_for(b.device) == torch.bfloat16
    padded, packed = (batch.to(b.device) for batch in (pad(examples, tokenizer.pad_id),
                                                       pack(examples, T, tokenizer.pad_id)))  # fmt: skip
    real = sum(len(example.tokens) - 1 for example in examples)
    eta = real / padded.tokens.numel()
    sides = {"padded": update(model_of(b, shape), answers, padded, bf16),
             "packed": update(model_of(b, shape), answers, packed, bf16)}  # fmt: skip
    run = b.compare(sides, check=0.02, memory=False, budget=b.pick(smoke=0.5, quick=12, full=240))
    filled = real / packed.tokens.numel()
    sentence = f"At the {shape} shape a packed update is at least 0.9/η times as fast as a padded one"
    b.claim(f"packing-{short(shape)}", sentence, goal=(">=", round(0.9 / eta, 3)), **SPEED,
            measured=run.figures("packed", work=real), bound=1 / eta, prediction=filled / eta,
            why="the clip and the optimiser cost the same on both sides; a mask written out slows attention",
            settings={"η": eta, "packed batch": list(packed.tokens.shape), "examples": len(examples),
                      "padded batch": list(padded.tokens.shape), "filled": filled})  # fmt: skip


def bench_trl(b, tokenizer, shape):
    """An update on TRL's own packed batch: the same conversations, weights and precision on both sides."""
    name, sentence = f"trl-{short(shape)}", f"At the {shape} shape 1.2 times the tokens/s of TRL, packed"
    if not (b.library("trl") and b.library("datasets")):
        b.not_run(name, sentence, goal=(">=", 1.2), **SPEED, why="trl is not installed (extra finetune)")
        return
    bf16, model = dtype_for(b.device) == torch.bfloat16, model_of(b, shape)
    with tempfile.TemporaryDirectory() as folder:
        hub.save(model, folder, tokenizer=tokenizer)
        town = rows.read(rows.TOWN, 200).rows
        trainer, batches = _trl.trainer_of(folder, town, batch_size=B, context=T, bf16=bf16, device=b.device)
    theirs = batches[0]
    examples = [Example(*pair) for pair in _trl.examples_of(theirs)]
    ours = pack(examples, T, tokenizer.pad_id).to(b.device)
    tokens = sum(len(example.tokens) for example in examples)
    sides = {"TRL": _trl.step_of(trainer, theirs), "ours": update(model, answers, ours, bf16),
             "ours, every logit": update(model_of(b, shape), every, ours, bf16)}  # fmt: skip
    run = b.compare(sides, check=0.02, memory=False, budget=b.pick(smoke=0.5, quick=20, full=240))
    head = model.config.d_model * model.config.vocab_size
    rest = sum(p.numel() for p in model.blocks.parameters())
    counted = int((ours.targets != IGNORE).sum()) / tokens
    b.claim(name, sentence, goal=(">=", 1.2), measured=run.figures("ours", "TRL", work=tokens), **SPEED,
            prediction=(head + rest) / (head * counted + rest),
            why="the prediction counts matrix products alone: our head reads only the tokens that count",
            settings={"bf16": bf16, "tokens": tokens, "counted": counted, "batch": list(ours.tokens.shape),
                      "every logit": run.speedup("ours, every logit", "TRL")[0]})  # fmt: skip


def words():
    """The course's tokenizer where project 2 has saved it, else that of the base model."""
    own = models() / "tokenizer"
    return tokenizers.load(own if (own / "tokenizer.json").is_file() else chain.find("base"))


def main(b):
    tokenizer = words()
    bench_skills(b)
    for shape in b.pick(smoke=("tiny",), quick=("6.7M",), full=("124M", "6.7M")):
        bench_packing(b, tokenizer, shape)
        bench_trl(b, tokenizer, shape)


def profiled(b):
    tokenizer = words()
    batch = pack(conversations(b, tokenizer), T, tokenizer.pad_id).to(b.device)
    return update(model_of(b, "124M"), answers, batch, dtype_for(b.device) == torch.bfloat16)


if __name__ == "__main__":
    bench(main, profiled)
