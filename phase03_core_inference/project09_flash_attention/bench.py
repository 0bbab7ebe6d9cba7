"""Measure the claims: time, memory and error of tiled attention, beside the written matrix and torch's own.

On a GPU the Triton kernel is measured as well, beside torch's backends and Triton's own tutorial.
"""

import functools

import torch
import torch.nn.functional as F

from common.benchmark import values
from common.cli.bench import bench
from common.profiling import peak_of

from . import _gpu, tiled
from ._sides import and_back, causal, inputs, sides_of


def sizes(b):
    """(B, H, K, T, D): 4,096 tokens; a test takes fewer."""
    return b.pick(smoke=(1, 2, 1, 128, 16), quick=(1, 4, 2, 4096, 64), full=(1, 8, 4, 4096, 64))


def flops_of(B, H, T, D, passes=1.0):
    """FLOPs of causal attention, of which half the matrix is asked for; a backward is 2.5 of these."""
    return passes * 4 * B * H * D * T * T / 2


def described(shape, **more):
    return {"shape": dict(zip("BHKTD", shape, strict=True)), "tile": tiled.TILE, "dtype": "float32", **more}


def bench_time(b):
    """A forward at 4,096 tokens, beside the written matrix and torch's fused kernel; and a sweep."""
    B, H, K, T, D = shape = sizes(b)
    sides = sides_of(*inputs(B, H, K, T, D, device=b.device))
    flops = flops_of(B, H, T, D)
    run = b.compare(sides, check=1e-4, memory=False, counts={name: {"FLOPs": flops} for name in sides},
                    budget=b.pick(smoke=0.5, quick=25, full=180))  # fmt: skip
    fewest = flops / b.ceilings.fp32
    lengths = b.pick(smoke=(32, 64), quick=(64, 256, 1024), full=(32, 64, 128, 256, 512, 1024, 2048))

    def at(length):
        given = sides_of(*inputs(B, H, K, length, D, device=b.device))
        pair = {name: given[name] for name in ("materialised", "tiled")}
        return b.compare(pair, check=1e-4, memory=False, budget=b.pick(smoke=0.2, quick=2, full=8))

    sweep = b.sweep("tokens", lengths, at, "tiled")
    b.claim("time", "At 4,096 causal tokens tiled attention takes at most 0.67 of the time of the matrix",
            unit="s", better="lower", goal=("<=", 0.67), headline=True, measured=run.figures("tiled"),
            bound=fewest / run.sides["materialised"].median, prediction=0.5 * (1 + tiled.TILE / T),
            why="the prediction counts the tiles that are computed; the matrix is also written and read, "
                "three times; the bound is the causal half of the products at this machine's peak",
            settings=described(shape, sweep=sweep))  # fmt: skip
    b.claim(
        "sdpa",
        "It takes at most 1.67 times as long as torch's fused attention",
        unit="s",
        better="lower",
        goal=("<=", 1.67),
        measured=run.figures("tiled", "torch's SDPA"),
        bound=fewest / run.sides["torch's SDPA"].median,
        settings=described(shape),
        why="each step over a tile is a call of its own, and writes what the fused kernel keeps in registers",
    )


def bench_training(b):
    """Forward and backward, as in training."""
    B, H, K, T, D = shape = b.pick(
        smoke=(1, 2, 1, 128, 16), quick=(1, 2, 1, 4096, 64), full=(1, 8, 4, 4096, 64)
    )
    given = inputs(B, H, K, T, D, device=b.device, gradients=True)
    sides = {name: and_back(call, given) for name, call in sides_of(*given).items()}
    run = b.compare(sides, check=1e-3, memory=False, budget=b.pick(smoke=0.5, quick=30, full=240))
    fewest = flops_of(B, H, T, D, 3.5) / b.ceilings.fp32
    b.claim(
        "training",
        "Forward and backward take at most 0.67 of the time of the matrix",
        unit="s",
        better="lower",
        goal=("<=", 0.67),
        measured=run.figures("tiled"),
        bound=fewest / run.sides["materialised"].median,
        prediction=3.5 / 3 * 0.5 * (1 + tiled.TILE / T),
        why="the way back computes the scores again: 3.5 units of products for 3",
        settings=described(shape),
    )
    b.claim("training-sdpa", "Forward and backward take at most 1.67 times as long as torch's",
            unit="s", better="lower", goal=("<=", 1.67), measured=run.figures("tiled", "torch's SDPA"),
            bound=fewest / run.sides["torch's SDPA"].median, settings=described(shape))  # fmt: skip


def bench_memory(b):
    """The most bytes held at once, beyond the inputs."""
    B, H, K, T, D = shape = b.pick(
        smoke=(1, 2, 1, 256, 16), quick=(1, 4, 2, 4096, 64), full=(1, 8, 4, 4096, 64)
    )
    given = inputs(B, H, K, T, D, device=b.device, gradients=True)
    plain = sides_of(*(x.detach() for x in given))
    back = {name: and_back(call, given) for name, call in sides_of(*given).items()}
    output, matrix = 4 * B * H * T * D, 4 * B * H * T * T
    for name, sides, what, least in (
        ("memory", plain, "The extra memory of a forward", output),
        ("memory-training", back, "That of forward and backward", 3 * output),
    ):
        held = {side: peak_of(sides[side], b.device) for side in ("materialised", "tiled")}
        b.claim(name, f"{what} is at most an eighth of that of the matrix", unit="bytes", better="lower",
                goal=("<=", 1 / 8), settings=described(shape),
                measured=values("tiled", [held["tiled"]], "materialised", [held["materialised"]]),
                bound=least / held["materialised"], prediction=2 * least / (3 * matrix),
                why="the bound is the result alone; the prediction has scaled copies as well")  # fmt: skip


def errors(b, seed):
    """{side: [largest error of y, of its gradients]} against float64, of inputs of spread one."""
    B, H, K, T, D = b.pick(smoke=(1, 2, 1, 64, 16), quick=(1, 4, 2, 1024, 64), full=(1, 4, 2, 1024, 64))
    given = inputs(B, H, K, T, D, device=b.device, gradients=True, seed=seed)
    exact = [x.detach().double().requires_grad_() for x in given]
    sdpa = functools.partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True)

    def both(fn, tensors):
        y = fn(*tensors)
        return y.detach(), *torch.autograd.grad(y.square().sum(), tensors)

    want, found = both(sdpa, exact), {}
    for name, fn in (("torch's SDPA", sdpa), ("tiled", lambda *x: tiled.flash(*x, causal(T, b.device)))):
        y, *back = ((x - y).abs().max().item() for x, y in zip(both(fn, given), want, strict=True))
        found[name] = y, max(back)
    return found


def bench_error(b):
    """Against float64, over random inputs: must hold."""
    runs = [errors(b, seed) for seed in range(b.pick(smoke=2, quick=8, full=16))]
    for name, place, what, why in (
        ("error", 0, "The largest error of a forward", "both sum in float32; only the order differs"),
        ("error-training", 1, "That of the gradients", "a group's queries are one long sum here: on short "
         "rows with grouped heads, such as 64 tokens, the ratio comes to 2")):  # fmt: skip
        ours, theirs = ([run[side][place] for run in runs] for side in ("tiled", "torch's SDPA"))
        b.claim(name, f"{what} against float64 is at most twice that of torch's", unit="largest error",
                better="lower", goal=("<=", 2.0), prediction=1.0, why=why,
                measured=values("tiled", ours, "torch's SDPA", theirs))  # fmt: skip


def main(b):
    bench_time(b)
    bench_training(b)
    bench_memory(b)
    bench_error(b)
    _gpu.bench_gpu(b)


def profiled(b):
    B, H, K, T, D = sizes(b)
    return sides_of(*inputs(B, H, K, T, D, device=b.device))["tiled"]


if __name__ == "__main__":
    bench(main, profiled)
