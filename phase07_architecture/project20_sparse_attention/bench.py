"""Measure the claims: how time and memory grow with the length, speed beside dense attention, and quality.

On a GPU the Triton kernel is measured as well, beside project 9's dense one and FlexAttention.
"""

import copy
import statistics

import torch
import torch.nn.functional as F

from common import hub
from common import tokenizer as tokenizers
from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench
from common.cli.paths import models
from common.profiling import peak_of

from . import _gpu, _long, _passkey, _see, patterns, rope_scaling
from ._sides import attend_of, dense, inputs, over, pattern_of, root, slope
from .block_sparse import sparse
from .rope_scaling import extend

H, WIDTH = 2, 256  # query heads and key heads; tokens of a window


def head_dim(b):
    return b.pick(smoke=16, quick=64, full=64)


def alike(want, got):
    """A pattern gives other numbers than dense attention does: what both give is a tensor of one shape. That
    ours are right is claimed beside float64."""
    return want.shape == got.shape and bool(torch.isfinite(got).all())


def sides_at(b, T):
    """(inputs, {name: call}) at one length."""
    q, k, v = inputs(H, T, head_dim(b), device=b.device)
    size = root(T)
    calls = {"dense": dense, "fixed": over(patterns.fixed(size)), "strided": over(patterns.strided(size)),
             "window": over(patterns.window(WIDTH))}  # fmt: skip
    return (q, k, v), {name: (lambda call=call: call(q, k, v)) for name, call in calls.items()}


@torch.no_grad()
def bench_slopes(b):
    """Time against length, all sides interleaved at each length, and the slope of each run's times."""
    lengths = b.pick(smoke=(64, 128, 256), quick=(2048, 4096, 8192), full=(4096, 8192, 16384, 32768, 65536))
    taken = {}
    for T in lengths:
        run = b.compare(sides_at(b, T)[1], check=alike, memory=False, warm=T <= 16384, target=0.2,
                        budget=b.pick(smoke=0.2, quick=12, full=60 if T < 30_000 else 110))  # fmt: skip
        for name, side in run.sides.items():
            taken.setdefault(name, []).append(side.seconds)
    n = min(len(runs) for kind in taken.values() for runs in kind)
    slopes = {name: [slope(lengths, [runs[i] for runs in kind]) for i in range(n)]
              for name, kind in taken.items()}  # fmt: skip
    settings = {"lengths": list(lengths), "heads": H, "head_dim": head_dim(b), "seconds": {
        name: [statistics.median(runs) for runs in kind] for name, kind in taken.items()}}  # fmt: skip
    span = f"from {lengths[0]:,} to {lengths[-1]:,} tokens"
    for name, words, op, goal, theory, head in (
        ("fixed", "The time of fixed blocks of sqrt n grows at most with n^1.6", "<=", 1.6, 1.5, True),
        ("strided", "That of the strided pattern, queries put together by step, too", "<=", 1.6, 1.5, False),
        ("window", "That of a window grows at most with n^1.1", "<=", 1.1, 1.0, False),
        ("dense", "That of dense attention, in the same run, at least with n^1.95", ">=", 1.95, 2.0, False),
    ):
        b.claim(f"slope-{name}", f"{words}, {span}" if head else words, unit="power of n", headline=head,
                better="lower" if op == "<=" else "higher", goal=(op, goal), prediction=theory,
                measured=values(name, slopes[name]), settings=settings,
                why="short rows spend part of their time in calls that do not grow with them")  # fmt: skip


@torch.no_grad()
def bench_speed(b):
    """One length, beside torch's fused kernel without a mask; and a token in a long cache."""
    T = b.pick(smoke=256, quick=8192, full=16384)
    given, sides = sides_at(b, T)
    D, size = given[0].size(-1), root(T)
    run = b.compare(sides, check=alike, memory=False, budget=b.pick(smoke=0.5, quick=25, full=150))
    pairs = T * (size / 2 + T / size / 2)
    at = f"At {T:,} tokens"
    for name, words in (("fixed", f"{at} fixed blocks take at most a quarter of the time of SDPA"),
                        ("window", f"{at} a window of {WIDTH} takes at most a quarter of it")):  # fmt: skip
        asked = pairs if name == "fixed" else T * WIDTH
        b.claim(f"time-{name}", words, unit="s", better="lower", goal=("<=", 0.25),
                measured=run.figures(name),
                bound=4 * H * D * asked / b.ceilings.fp32 / run.sides["dense"].median,
                prediction=asked / (T * T / 2), settings={"tokens": T, "heads": H, "head_dim": D},
                why="the prediction counts pairs; a piece is five calls, its keys gathered")  # fmt: skip
    S = b.pick(smoke=512, quick=16384, full=65536)
    _, k, v = inputs(H, S, D, device=b.device, seed=1)
    q, positions = k[:, :, -1:], torch.tensor([S - 1], device=b.device)
    fn = sparse(patterns.sinks(WIDTH))
    both = {"dense": lambda: F.scaled_dot_product_attention(q, k, v),
            "sinks": lambda: fn(q, k, v, positions=positions, cache=_Held(k, v))}  # fmt: skip
    run = b.compare(both, check=alike, memory=False, budget=b.pick(smoke=0.3, quick=8, full=40))
    b.claim("decode", f"A token behind {S:,} in a cache: a window with sinks takes at most half the time",
            unit="s", better="lower", goal=("<=", 0.5), measured=run.figures("sinks"),
            prediction=(WIDTH + 4) / S,
            why="the prediction counts bytes of keys; what is left is Python that makes the list",
            settings={"tokens": S, "heads": H, "head_dim": D})  # fmt: skip


class _Held:
    """A cache that is full: what it holds is all there is."""

    def __init__(self, k, v):
        self.k, self.v = k, v

    def update(self, k, v, positions):
        return self.k, self.v


@torch.no_grad()
def bench_memory(b):
    """The most bytes held beyond the inputs."""
    lengths = b.pick(smoke=(256, 1024), quick=(4096, 16384), full=(4096, 8192, 16384, 32768, 65536))
    held = []
    for T in lengths:
        q, k, v = inputs(H, T, head_dim(b), device=b.device)
        fn = over(patterns.fixed(root(T)))
        held.append(peak_of(lambda fn=fn, q=q, k=k, v=v: fn(q, k, v), b.device))
    b.claim("memory", "The memory of fixed blocks grows at most with n^1.1", unit="power of n",
            better="lower", goal=("<=", 1.1), prediction=1.0,
            measured=values("fixed", [slope(lengths, held)]),
            settings={"lengths": list(lengths), "bytes": held})  # fmt: skip


@torch.no_grad()
def bench_error(b):
    """Beside masked dense attention in float64: must hold."""
    T, worst = b.pick(smoke=96, quick=2048, full=2048), []
    for seed, name in enumerate(("window", "longformer", "bigbird", "fixed", "strided")):
        pattern, given = pattern_of(name, T, max(8, T // 16)), inputs(H, T, head_dim(b), seed=seed)
        look = pattern.look(torch.arange(T)[:, None], torch.arange(T))
        want = F.scaled_dot_product_attention(*(x.double() for x in given), look)
        worst.append((over(pattern)(*given) - want).abs().max().item())
    b.claim("error", "Five patterns: the largest error beside masked dense attention is at most 1e-5",
            unit="largest error", better="lower", goal=("<=", 1e-5),
            measured=values("block-sparse", [max(worst)]), settings={"tokens": T})  # fmt: skip


class Quality:
    """The base model, the long one where it was made, and text for both."""

    def __init__(self, b):
        folder = chain.find("base", "", say=b.say)
        self.base, self.tokenizer = hub.load(folder, device=b.device), tokenizers.load(folder)
        self.context = min(self.base.config.max_seq_len, b.pick(smoke=64, quick=512, full=512))
        self.documents = b.pick(smoke=1, quick=2, full=8)
        long = models() / "long"
        there = b.mode != "smoke" and (long / "card.json").is_file()
        restore = {"project20_sparse_attention": rope_scaling.restore}
        self.long = hub.load(long, device=b.device, restore=restore) if there else None

    def beyond(self, model, factor):
        """(mean loss beyond the context, share of facts found) in rows `factor` times as long."""
        chronicles = _long.Chronicles(self.tokenizer, max(512, factor * self.context))
        losses, needles, _ = _long.judge(model, chronicles, range(self.documents))
        return losses[self.context :].mean().item(), needles


@torch.no_grad()
def bench_context(b):
    """Four contexts long: what a token beyond the first costs; and whether facts are found again."""
    quality = Quality(b)
    plain, _ = quality.beyond(quality.base, 4)
    scaled = {way: quality.beyond(extend(copy.deepcopy(quality.base), way, 4.0), 4)[0]
              for way in rope_scaling.WAYS}  # fmt: skip
    for way in ("ntk", "yarn"):
        b.claim(f"context-{way}", f"Beyond its context, up to four times, {way} leaves the base at most "
                "0.9 of its loss, without training", unit="nats a token", better="lower", goal=("<=", 0.9),
                measured=values(way, [scaled[way]], "as it is", [plain]),
                settings={"documents": quality.documents, "context": quality.context,
                          "linear": scaled["linear"]})  # fmt: skip
    found = "In texts of four contexts the long model finds at least half of the facts again"
    how = {"unit": "share found", "better": "higher", "goal": (">=", 0.5)}
    if quality.long is None:
        return b.not_run("needles", found, why="there is no models/long: ./thirty run 20 --save", **how)
    share = quality.beyond(quality.long, 4)[1]
    return b.claim("needles", found, measured=values("long model", [share]), **how)


@torch.no_grad()
def bench_routing(b):
    """Of the base model's attention outside the own block: the share on chosen blocks, and random ones."""
    quality, block = Quality(b), b.pick(smoke=4, quick=16, full=16)
    chronicles = _long.Chronicles(quality.tokenizer, max(512, quality.context))
    rows = [chronicles.row(i).ids[: quality.context].to(b.device) for i in range(quality.documents)]
    found = _see.masses(quality.base, rows, block, 4)
    b.claim("routing", "Blocks chosen by their mean key hold at least twice the attention of random ones",
            unit="share of attention", better="higher", goal=(">=", 2.0),
            bound=found["best"] / found["random"],
            measured=values("routed", [found["routed"]], "random", [found["random"]]),
            settings={"block": block, "blocks": 3, "nearest": found["nearest"], "best": found["best"]},
            why="the bound is the choice that knows the attention beforehand")  # fmt: skip


def bench_passkey(b):
    """Small models that each learnt through a pattern: a digit at the other end of the row."""
    length, steps = b.pick(smoke=16, quick=64, full=64), b.pick(smoke=2, quick=200, full=600)
    width, found = max(4, length // 8), {}
    for name in ("window", "fixed", "routed"):
        model = _passkey.trained(length, steps, attend_of(name, length, width))
        found[name] = _passkey.found(model, length, 0.05, rows=256)
    for name in ("fixed", "routed"):
        b.claim(f"passkey-{name}", f"A digit at the far end: through {name} attention at least 3 times as "
                "many are found as through a window", unit="share found", better="higher", goal=(">=", 3.0),
                measured=values(name, [found[name]], "window", [max(found["window"], 1e-3)]),
                bound=_passkey.DIGITS, why="guessing finds one in eight; two layers of a window do not reach",
                settings={"tokens": length, "window": width, "updates": steps})  # fmt: skip


def main(b):
    bench_slopes(b)
    bench_speed(b)
    bench_memory(b)
    bench_error(b)
    bench_context(b)
    bench_routing(b)
    bench_passkey(b)
    _gpu.bench_gpu(b)


def profiled(b):
    return sides_at(b, b.pick(smoke=256, quick=16384, full=16384))[1]["fixed"]


if __name__ == "__main__":
    bench(main, profiled)
