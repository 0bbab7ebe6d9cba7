"""Measure the claims: training at GPT-2's size beside nanoGPT, our AdamW beside torch's, memory, quality.

nanoGPT's model.py runs as it ships, from $THIRTY_RIVALS, with the weights that ours has too.
"""

import copy
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from common.benchmark import values
from common.cli.bench import bench
from common.device import matmul_parameters, mfu, model_flops, peak_flops
from common.model import GPT, ModelConfig
from common.profiling import peak_of

from . import _nano, probe, train
from ._build import OPTIMIZERS, recompute
from ._generation import bench_generation
from ._lab import Lab, fit
from .objectives import CausalLM
from .optimizers import ForeachAdamW

COMPILED = "ours, bf16, compiled"
SPEED = {"unit": "tok/s", "better": "higher"}
GOALS = {"train": 2.0, "train-bf16": 1.1, "train-compiled": 1.1, "train-fp32": 1.0}
SENTENCES = {
    "train": "An update of GPT-2's 124M shape takes at most half the time of nanoGPT's in fp32",
    "train-bf16": "The same update is at least 1.1 times as fast as nanoGPT's under bf16 autocast",
    "train-compiled": "Under bf16 autocast on both sides, with our blocks compiled, it is 1.1 times as fast",
    "train-fp32": "In fp32 on both sides an update takes no longer than nanoGPT's",
    "quality": "After equally many tokens our model needs at least 0.05 bits per byte less than nanoGPT",
}  # fmt: skip


def shape(b):
    """GPT-2 small by nanoGPT's names for the sizes; something that fits into a test where that is asked
    for."""
    full = {"vocab_size": 50304, "block_size": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768}
    return b.pick(smoke={"vocab_size": 320, "block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 64},
                  quick=full, full=full)  # fmt: skip


def batch_of(b, sizes):
    """(inputs, targets): 4 x 256 random tokens on a CPU, 16 x 1024 on a GPU."""
    rows, T = (16, 1024) if b.device.type == "cuda" else (4, 256)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(sizes["vocab_size"], (rows, min(T, sizes["block_size"]) + 1), generator=draw)
    tokens = tokens.to(b.device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def flops_of(model, T):
    """FLOPs of an update, for one token."""
    size = model.config
    return model_flops(matmul_parameters(model), size.n_layer, size.n_head * size.head_dim, T)


def bench_training(b):
    """One whole update: forward, backward, clip, AdamW; ours under bf16 autocast against both of
    nanoGPT's."""
    sizes, checkout = shape(b), b.rival("nanoGPT")
    batch = batch_of(b, sizes)
    if not checkout:
        for name, goal in GOALS.items():
            claim = {"goal": (">=", goal), "headline": name == "train", **SPEED}
            b.not_run(name, SENTENCES[name], why="nanoGPT is not in $THIRTY_RIVALS", **claim)
        return
    source, _ = _nano.theirs(checkout, **sizes)
    state = copy.deepcopy(source.state_dict())
    model, our_step = _nano.our_step(sizes, batch, b.device, True, source)
    sides = {"nanoGPT, fp32": _nano.their_step(checkout, sizes, batch, b.device, False, state)[1],
             "nanoGPT, bf16": _nano.their_step(checkout, sizes, batch, b.device, True, state)[1],
             "ours, bf16": our_step,
             "ours, fp32": _nano.our_step(sizes, batch, b.device, False, source)[1]}  # fmt: skip
    if b.mode == "full":  # compiling takes a quarter of a minute
        sides[COMPILED] = _nano.our_step(sizes, batch, b.device, True, source, compiled=True)[1]
    flops = flops_of(model, batch[0].size(1)) * batch[0].numel()
    run = b.compare(sides, check=0.03, counts={name: {"FLOPs": flops} for name in sides}, memory=False,
                    budget=b.pick(smoke=0.5, quick=15, full=300))
    settings = {"batch": list(batch[0].shape), "parameters": sum(p.numel() for p in model.parameters())}
    claim_training(b, run, flops, batch[0].numel(), settings)
    if b.device.type == "cuda":  # pragma: no cover - gpu
        peak, source = peak_flops(b.device, torch.bfloat16)
        share = mfu(flops, 1 / run.sides["ours, bf16"].median, peak)
        b.claim("mfu", "An update reaches 45 % of the card's peak, eager", unit="of the peak",
                better="higher", goal=(">=", 0.45), measured=values("ours", [share]),
                settings={"peak": source})  # fmt: skip


def claim_training(b, run, flops, tokens, settings):
    """What the sides of one update say. flops, tokens: of the whole update."""
    for name, rival in (("train", "nanoGPT, fp32"), ("train-bf16", "nanoGPT, bf16")):
        seconds = run.sides[rival].median
        products = flops / (b.ceilings.fp32 if rival.endswith("fp32") else b.ceilings.bf16)
        rest = max(0.0, seconds - products)  # what is no matrix product stays as it is
        fastest = flops / b.ceilings.bf16
        claim = {"goal": (">=", GOALS[name]), "headline": name == "train", "settings": settings, **SPEED}
        b.claim(name, SENTENCES[name], measured=run.figures("ours, bf16", rival, work=tokens), **claim,
                bound=seconds / fastest, prediction=seconds / (fastest + rest),
                why="the bound does nothing but matrix products in bfloat16")  # fmt: skip
    claim = {"goal": (">=", GOALS["train-compiled"]), **SPEED}
    if COMPILED in run.sides:
        b.claim("train-compiled", SENTENCES["train-compiled"], settings=settings, **claim,
                measured=run.figures(COMPILED, "nanoGPT, bf16", work=tokens),
                why="torch.compile joins what is no product; the products stay as they are")  # fmt: skip
    else:
        b.not_run("train-compiled", SENTENCES["train-compiled"], why="compiling takes longer", **claim)
    b.claim("train-fp32", SENTENCES["train-fp32"], goal=(">=", GOALS["train-fp32"]), **SPEED,
            measured=run.figures("ours, fp32", "nanoGPT, fp32", work=tokens), settings=settings,
            why="the same products in the same kernels; what is left to win is the optimiser")  # fmt: skip


def bench_adamw(b):
    """Our AdamW over all parameters at once beside torch's foreach, on the shapes of the base model."""
    torch.manual_seed(0)
    sizes = {"d_model": b.pick(smoke=32, quick=256, full=256), "d_ff": b.pick(smoke=80, quick=640, full=640)}
    model = GPT(ModelConfig(n_layer=6, n_head=8, n_kv_head=4, tie_embeddings=True, vocab_size=b.pick(
        smoke=300, quick=10_000, full=10_000), **sizes)).to(b.device)  # fmt: skip
    settings, sides = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}, {}
    for name, make, more in (
        ("torch, foreach", torch.optim.AdamW, {"foreach": True}),
        ("ours", ForeachAdamW, {}),
    ):
        own = copy.deepcopy(model)
        draw = torch.Generator().manual_seed(1)
        for p in own.parameters():
            p.grad = torch.randn(p.shape, generator=draw).to(p)
        sides[name] = updater(make(own.parameters(), **settings, **more), own.blocks[0].attn.wq.weight)
    run = b.compare(sides, check=1e-6, memory=False, budget=b.pick(smoke=0.5, quick=15, full=40))
    b.claim(
        "adamw",
        "Our AdamW takes no longer than torch's foreach form",
        unit="s",
        better="lower",
        goal=("<=", 1.0),
        measured=run.figures("ours"),
        prediction=1.0,
        why="both go over the same arrays about ten times; torch's fused form goes once",
    )


def updater(optimizer, watched):
    """A function that makes an update and returns a matrix as it was after the first one."""
    first = []

    def step():
        optimizer.step()
        first.append(watched.detach().clone()) if not first else None
        return first[0]

    return step


def bench_memory(b):
    """Forward and backward of the base model's shape with activations kept, and with blocks that run
    twice."""
    config = b.pick(smoke=train.PRESETS["smoke"], quick=train.PRESETS["cpu"], full=train.PRESETS["cpu"])
    rows = b.pick(smoke=2, quick=4, full=16)
    tokens = torch.randint(300, (rows, config.context + 1), generator=torch.Generator().manual_seed(0))
    tokens = tokens.to(b.device)
    held = {}
    for name, dress in (("kept", lambda model: model), ("recomputed", recompute)):
        torch.manual_seed(0)  # a small vocabulary: the logits are not what this is about
        objective = CausalLM(dress(train.build(config, 300))).to(b.device)
        held[name] = peak_of(lambda o=objective: o((tokens[:, :-1], tokens[:, 1:])).backward(), b.device)
    b.claim("checkpointing", "Recomputing the blocks halves the memory that forward and backward take",
            unit="bytes", better="lower", goal=("<=", 0.5),
            measured=values("recomputed", [held["recomputed"]], "kept", [held["kept"]]),
            prediction=1 / config.n_layer,
            why="one block's activations instead of all; gradients and the blocks' inputs stay",
            settings={"batch": [rows, config.context], "n_layer": config.n_layer})  # fmt: skip


@dataclass(frozen=True)
class Small:
    """The lab of the comparison by quality; `folder` and `device` are what a lab wants to know of a run."""

    folder: Path
    device: torch.device
    characters: int
    steps: int
    vocab_size: int = 1024
    judged: int = 20_000


class Quality:
    """Equal text, tokens, batches and about equal weights: nanoGPT with its AdamW, ours with Muon."""

    def __init__(self, small, context):
        self.lab, self.tokens = Lab(small, small, context), small.steps * 16 * context

    def judge(self, model):
        """Bits per byte on unseen pages."""
        return probe.surprise(model, self.lab.windows(), self.lab.lengths)["bits_per_byte"]

    def ours(self, seed, rate):
        """Llama's parts and Muon."""
        sizes = {"n_layer": 4, "n_head": 4, "n_kv_head": 4, "d_model": 128, "d_ff": 344}
        return self.judge(self.lab.trained(seed, OPTIMIZERS["muon"], sizes=sizes, learning_rate=rate)[0])

    def theirs(self, checkout, seed, rate):
        """GPT-2's parts and AdamW, under the same schedule and clip."""
        torch.manual_seed(seed)
        sizes = {"vocab_size": self.lab.tokenizer.vocab_size, "block_size": self.lab.context}
        model, optimizer = _nano.theirs(checkout, **sizes, n_layer=4, n_head=4, n_embd=128, bias=False)
        objective, device = Whole(model.to(self.lab.run.device)), self.lab.run.device
        settings = self.lab.settings(learning_rate=rate)
        fit(objective, self.lab.batches(seed=seed), settings, lambda *_: optimizer(rate, device))
        return self.judge(objective.logits)


class Whole(torch.nn.Module):
    """nanoGPT's model as an objective, and as a model that gives the logits of every token."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.logits = Logits(model)

    def forward(self, batch):
        return self.model(*(part.contiguous() for part in batch))[1]


class Logits(torch.nn.Module):
    """nanoGPT gives all logits only where it is given targets."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens, tokens.contiguous())[0]


def bench_quality(b):
    """Bits per byte on unseen TinyTown after equally many tokens; each side at the best of as many rates."""
    claim = {"unit": "bits per byte", "better": "higher", "goal": (">=", 0.05)}
    checkout = b.rival("nanoGPT")
    if not checkout:
        b.not_run("quality", SENTENCES["quality"], why="nanoGPT is not in $THIRTY_RIVALS", **claim)
        return
    with tempfile.TemporaryDirectory() as folder:
        characters = b.pick(smoke=60_000, quick=2_000_000, full=4_000_000)
        small = Small(Path(folder), b.device, characters, b.pick(smoke=3, quick=60, full=250))
        quality = Quality(small, b.pick(smoke=32, quick=128, full=128))
    sides = {"ours": quality.ours, "nanoGPT": functools.partial(quality.theirs, checkout)}
    rates = {"ours": b.pick(smoke=(1e-2,), quick=(1e-2,), full=(5e-3, 1e-2, 2e-2)),
             "nanoGPT": b.pick(smoke=(3e-3,), quick=(3e-3,), full=(1e-3, 3e-3, 6e-3))}  # fmt: skip
    best = {name: min(rates[name], key=functools.partial(side, 0)) if len(rates[name]) > 1 else rates[name][0]
            for name, side in sides.items()}  # fmt: skip
    seeds = range(1, b.pick(smoke=2, quick=2, full=4))  # the rates were chosen by seed 0
    found = {name: [side(seed, best[name]) for seed in seeds] for name, side in sides.items()}
    differences = [them - us for us, them in zip(found["ours"], found["nanoGPT"], strict=True)]
    b.claim("quality", SENTENCES["quality"], **claim, measured=values("nanoGPT - ours", differences),
            settings={**found, "tokens": quality.tokens, "tried": rates, "rate": best})  # fmt: skip


def main(b):
    bench_training(b)
    bench_adamw(b)
    bench_memory(b)
    bench_quality(b)
    bench_generation(b)


def profiled(b):
    sizes = shape(b)
    return _nano.our_step(sizes, batch_of(b, sizes), b.device, True)[1]


if __name__ == "__main__":
    bench(main, profiled)
