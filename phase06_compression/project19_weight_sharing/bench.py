"""Measure the claims: what a tie saves, loss at fewer parameters, blocks run twice, FLOPs, bytes, speed."""

import math
import statistics
import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from common import hub
from common import tokenizer as tokenizers
from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench
from common.cli.paths import models
from common.model import ModelConfig
from common.recipe import TrainConfig, adamw
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.town import Town

from . import _decode, _ways
from ._gpu import bench_gpu
from .layer_sharing import adjacent, cycle, unshared
from .train import PRESETS
from .tying import count, flops, tied_share

GPT2_REST = 163_037_184 - 2 * 50_257 * 768  # all of GPT-2 small but embedding and head
STUDENT = {1: 12.706, 2: 4.303}  # 97.5 % quantiles of Student's t, by degrees of freedom
ONCE = ("cycle", "sandwich")  # as many parameters as "twice": other attempts, one seed each
SHARE = {"unit": "of the parameters", "better": "higher"}
NATS = {"unit": "nats a token", "better": "lower"}


def by_seed(found, logs=True):
    """What `values` gave, with Student's interval over the seeds; pairs differ by seed alone."""
    runs = list(found["samples"].values())
    pairs = [math.log(ours / base) for base, ours in zip(*runs, strict=True)] if logs else runs[0]
    if len(pairs) - 1 not in STUDENT:
        return found
    half = STUDENT[len(pairs) - 1] * statistics.stdev(pairs) / math.sqrt(len(pairs))
    ends = statistics.fmean(pairs) - half, statistics.fmean(pairs) + half
    return {**found, "interval": tuple(map(math.exp, ends)) if logs else ends}


class Trial:
    """New models of one size, trained alike, shared in different ways; their losses by seed."""

    def __init__(self, b, folder):
        self.preset = PRESETS["smoke"] if b.mode == "smoke" else PRESETS["cpu"]
        self.plan = replace(self.preset.plan, steps=b.pick(smoke=2, quick=12, full=400))
        self.seeds, self.say, self.device = range(b.pick(smoke=1, quick=1, full=3)), b.say, b.device
        self.others = b.pick(smoke=ONCE, quick=(), full=ONCE)
        judged = b.pick(smoke=200, quick=4_000, full=30_000)
        self.town = Town(tokenizers.load(folder), self.plan.text, judged, b.device)
        self.sizes = self.preset.sizes(self.town.tokenizer.vocab_size)
        self.counts = {way: count(_ways.on_meta(way, self.sizes)) for way in _ways.WAYS}

    def loss(self, way, seed):
        """Nats a token of unseen pages after a training."""
        model = _ways.build(way, self.sizes, seed, self.device)
        with tempfile.TemporaryDirectory() as folder:
            self.town.fit(CausalLM(model), replace(self.plan, seed=seed), Path(folder) / "run")
        found = self.town.loss(model, self.plan.context)
        self.say(f"  seed {seed}, {way}: {found:.4f} nats, {self.counts[way]:,} parameters")
        return found

    @cached_property
    def losses(self):
        """{way: losses by seed}"""
        found = {way: [self.loss(way, seed) for seed in self.seeds]
                 for way in ("untied", "tied", "twice", "half")}  # fmt: skip
        return found | {way: [self.loss(way, 0)] for way in self.others}

    def settings(self, *ways):
        found = {f"parameters, {way}": self.counts[way] for way in ways}
        return found | {"updates": self.plan.steps, "vocabulary": self.sizes.vocab_size,
                        "tokens of an update": self.plan.tokens}  # fmt: skip


def bench_share(b):
    """What a tie saves of GPT-2 small, by the size of the vocabulary: counted, not timed."""
    for V, goal in ((50_257, 0.236), (10_000, 0.075)):
        found = tied_share(V, 768, GPT2_REST)
        b.claim(f"tie-{V // 1000}k", f"A tie saves about {goal + 0.001:.1%} of an untied GPT-2 small with "
                f"{V:,} tokens", **SHARE, goal=(">=", goal), measured=values("saved", [found]), bound=0.5,
                settings={f"{v:,} tokens": tied_share(v, 768, GPT2_REST) for v in (1_000, 32_000, 128_000)})


def bench_losses(b, trial):
    """Tie, pairs, and the same number of blocks run once: all trained on the same tokens."""
    found, n = trial.losses, trial.counts
    tokens = trial.plan.steps * trial.plan.tokens
    after = f"after {tokens:,} tokens, {len(trial.seeds)} seeds in pairs"
    b.claim("tie-loss", "Tied, the loss on unseen pages is no higher than untied", **NATS, goal=("<=", 1.0),
            measured=by_seed(values("tied", found["tied"], "untied", found["untied"])), why=after,
            settings=trial.settings("untied", "tied"))
    saved = 1 - n["twice"] / n["tied"]
    also = {f"loss, {way}": found[way][0] for way in trial.others}
    b.claim("share-loss", "With pairs of layers sharing their weights, at least 30 % of the tied model's "
            "parameters are gone and the loss is at most 1.5 % higher", **NATS, goal=("<=", 1.015),
            headline=True, measured=by_seed(values("shared", found["twice"], "tied", found["tied"])),
            why=f"{saved:.1%} fewer than tied, {1 - n['twice'] / n['untied']:.1%} fewer than untied, at "
                f"{trial.sizes.vocab_size:,} tokens; {after}",
            settings={**trial.settings("untied", "tied", "twice"), "saved": saved, **also})
    better = [once - twice for once, twice in zip(found["half"], found["twice"], strict=True)]
    b.claim("repeat", "At equal parameters, each block run twice at once is at least 0.01 nats better than "
            "run once", unit="nats a token", better="higher", goal=(">=", 0.01),
            measured=by_seed(values("better by", better), logs=False),
            why=f"for twice the FLOPs in the blocks; {after}",
            settings={**trial.settings("half", "twice"), "once": found["half"], "twice": found["twice"]})


def bench_flops(b, sizes):
    """torch's count of a forward pass, and what a file and an optimiser hold."""
    tokens = torch.zeros(1, 16, dtype=torch.long)
    model = _ways.build("albert", sizes, 0)
    plain, work = unshared(model), {}
    for name, each in (("own", plain), ("shared", model)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            each(tokens)
        work[name] = float(counter.get_total_flops())
    b.claim("flops", "One block for all layers costs as many FLOPs as a block for each", unit="FLOPs",
            better="lower", goal=("==", 1.0), bound=1.0, prediction=1.0,
            measured=values("shared", [work["shared"]], "own", [work["own"]]),
            settings={"parameters, own": count(plain), "parameters, shared": count(model),
                      "matrices, by tying.flops": flops(model)})
    held = {}
    for way in ("tied", "twice"):
        model = _ways.build(way, sizes, 0)
        objective = CausalLM(model)
        optimizer = adamw(objective, TrainConfig())
        objective((tokens, tokens)).backward()
        optimizer.step()
        moments = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.dim())
        with tempfile.TemporaryDirectory() as folder:
            hub.save(model, Path(folder) / "m")
            held[way] = (Path(folder) / "m" / "model.safetensors").stat().st_size, moments
    b.claim("file", "The file of the model whose layers share in pairs is at most 0.7 times as large",
            unit="bytes", better="lower", goal=("<=", 0.7),
            measured=values("shared", [float(held["twice"][0])], "tied", [float(held["tied"][0])]),
            settings={"optimiser's moments, shared": held["twice"][1], "tied": held["tied"][1]},
            prediction=count(_ways.on_meta("twice", sizes)) / count(_ways.on_meta("tied", sizes)))


def bench_decode(b):
    """Where the weights come from: 12 layers that read 12 blocks, or 6 blocks each twice, or one."""
    d, ff, n = b.pick(smoke=(64, 96, 4), quick=(640, 1728, 12), full=(640, 1728, 12))
    budget = b.pick(smoke=0.3, quick=5, full=40)
    plans = {"twice": (adjacent(n, n // 2), 1.15, "each of half as many blocks run twice at once"),
             "one": (adjacent(n, 1), 1.15, "one block for all layers"),
             "cycle": (cycle(n, n // 2), 1.0, "half as many blocks, all run and then all again")}  # fmt: skip
    for name, (plan, goal, what) in plans.items():
        pair = _decode.sides(b, plan, d, ff)
        run = b.compare(pair, check=1e-4, memory=False, budget=budget)
        size = _decode.block_bytes(pair["shared"])
        sweep = {"sweep": widths(b)} if name == "twice" else {}
        b.claim(f"decode-{name}", f"One row, a token at a time, {what}: at least {goal} times as fast as "
                "with weights of their own", unit="tokens/s", better="higher", goal=(">=", goal),
                measured=run.figures("shared", work=1), prediction=_decode.predicted(b, plan, size),
                bound=len(plan) / len(set(plan)),
                why=f"a block is {size / 1e6:.1f} MB: it pays where one stays in a cache and all do not",
                settings={"MB of a block": size / 1e6, "layers": n, **sweep})


def widths(b):
    """The gain of running each block twice, by the size of a block."""
    sizes = b.pick(smoke=((32, 48), (64, 96)), quick=((256, 704),),
                   full=((128, 352), (256, 704), (1024, 2752)))  # fmt: skip
    n = b.pick(smoke=4, quick=12, full=12)

    def at(megabytes):
        d, ff = known[megabytes]
        return b.compare(_decode.sides(b, adjacent(n, n // 2), d, ff), check=1e-4, memory=False,
                         budget=b.pick(smoke=0.2, quick=3, full=20))  # fmt: skip

    known = {round(4 * (4 * d * d + 3 * d * ff) / 1e6, 2): (d, ff) for d, ff in sizes}
    return b.sweep("MB of a block", known, at, "shared")


def bench_step(b):
    """An update of a model that shares takes as long as one of a model that does not."""
    sizes = b.pick(smoke=PRESETS["smoke"], quick=PRESETS["cpu"], full=PRESETS["cpu"]).sizes(b.pick(
        smoke=260, quick=10_000, full=10_000))  # fmt: skip
    shape = b.pick(smoke=(1, 16), quick=(4, 128), full=(4, 128))
    run = b.compare({way: Update(way, sizes, shape, b.device) for way in ("tied", "twice")}, check=1.0,
                    memory=False, budget=b.pick(smoke=0.3, quick=8, full=60))  # fmt: skip
    b.claim("step", "An update takes at most 1.02 times as long where pairs of layers share", unit="s",
            better="lower", goal=("<=", 1.02), measured=run.figures("twice"), prediction=1.0,
            why="the same products; the optimiser moves fewer numbers, and gradients are added up")


class Update:
    """One update of a new model; returns the loss of the first."""

    def __init__(self, way, sizes: ModelConfig, shape, device):
        self.objective = CausalLM(_ways.build(way, sizes, 0, device))
        self.optimizer = adamw(self.objective, TrainConfig())
        draw = torch.Generator().manual_seed(0)
        tokens = torch.randint(sizes.vocab_size, (shape[0], shape[1] + 1), generator=draw).to(device)
        self.batch, self.first = (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()), None

    def __call__(self):
        loss = self.objective(self.batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.first = loss.item() if self.first is None else self.first
        return self.first


def main(b):
    bench_share(b)
    folder = models() / "base"
    if chain.whole(folder):
        trial = Trial(b, folder)
        bench_losses(b, trial)
        bench_flops(b, trial.sizes)
    else:
        b.not_run("share-loss", "With pairs of layers sharing their weights the loss is at most 1.5 % higher",
                  goal=("<=", 1.015), why="no models/base yet: ./thirty run 3", headline=True, **NATS)
    bench_step(b)
    bench_decode(b)
    bench_gpu(b)


def profiled(b):
    return _decode.sides(b, adjacent(12, 6), 640, 1728)["shared"]


if __name__ == "__main__":
    bench(main, profiled)
