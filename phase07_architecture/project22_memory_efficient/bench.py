"""Measure the claims: memory and time in chunks; a step over a long cache in shares; how exact both are.

On a GPU the Triton kernels are measured as well, beside torch's backends, FlexAttention and xFormers.
"""

import torch
import torch.nn.functional as F

from common.benchmark import values
from common.cli.bench import bench
from common.profiling import peak_of
from phase03_core_inference.project09_flash_attention.tiled import materialised

from . import _gpu, chunked, split_k
from ._sides import and_back, bytes_of, causal, counted, inputs, rows_of, steps_of


def described(letters, shape, **more):
    return {"shape": dict(zip(letters, shape, strict=True)), "dtype": "float32", **more}


def bench_memory(b):
    """The most bytes held at once, beyond the inputs; forward, and there and back."""
    B, H, K, T, D = shape = b.pick(smoke=(1, 1, 1, 512, 16), quick=(1, 1, 1, 8192, 64),
                                   full=(1, 1, 1, 16_384, 64))  # fmt: skip
    given = inputs(B, H, K, T, T, D, device=b.device, gradients=True)
    plain = rows_of(*(x.detach() for x in given))
    back = {name: and_back(call, given) for name, call in rows_of(*given).items()}
    output, matrix = 4 * B * H * T * D, 4 * B * H * T * T
    for name, sides, what, least in (
        ("memory", plain, "a forward", output),
        ("memory-training", back, "forward and backward", 3 * output),
    ):
        chunks = B * H * counted(T, D, chunked.QUERIES, chunked.KEYS, sides is back)
        held = {side: peak_of(sides[side], b.device) for side in ("materialised", "chunked")}
        b.claim(name, f"At 16,384 tokens {what} in chunks holds at most a twentieth of what it holds with "
                "its matrix", unit="bytes", better="lower", goal=("<=", 1 / 20), headline=name == "memory",
                measured=values("chunked", [held["chunked"]], "materialised", [held["materialised"]]),
                bound=least / held["materialised"], prediction=chunks / (3 * matrix),
                settings=described("BHKTD", shape, queries=chunked.QUERIES, keys=chunked.KEYS),
                why="the bound is what comes out; the prediction counts tensors: what comes in and out, a "
                    "chunk of scores a few times over, an answer for each chunk of keys")  # fmt: skip


def bench_time(b):
    """What the chunks cost in time, beside the written matrix; torch's fused kernel for comparison."""
    B, H, K, T, D = shape = b.pick(smoke=(1, 2, 1, 128, 16), quick=(1, 2, 1, 4096, 64),
                                   full=(1, 4, 2, 4096, 64))  # fmt: skip
    for name, back, what in (("time", False, "A forward"), ("time-training", True, "Forward and backward")):
        given = inputs(B, H, K, T, T, D, device=b.device, gradients=back)
        sides = rows_of(*given)
        if back:
            sides = {side: and_back(call, given) for side, call in sides.items()}
        run = b.compare(sides, check=1e-3, memory=False, budget=b.pick(smoke=0.5, quick=14, full=150))
        fewest = (3.5 if back else 1) * 2 * B * H * D * T * T / b.ceilings.fp32
        others = {side: run.speedup(side)[0] for side in sides}
        b.claim(name, f"{what} in chunks takes at most 1.1 times as long as with its matrix (4,096 causal "
                "tokens)", unit="s", better="lower", goal=("<=", 1.1), measured=run.figures("chunked"),
                bound=fewest / run.sides["materialised"].median,
                prediction=(4 / 3 if back else 1) * 0.5 * (1 + chunked.KEYS / T),
                why="half the chunks lie in the future; there and back costs one forward more",
                settings=described("BHKTD", shape, faster_than_the_matrix=others))  # fmt: skip


def bench_step(b):
    """One token over a cache that no processor's cache holds: one row, one key head."""
    shape = b.pick(smoke=(1, 4, 1, 512, 16), quick=(1, 4, 1, 65_536, 128), full=(1, 4, 1, 65_536, 128))
    run, moved = step(b, *shape, b.pick(smoke=0.5, quick=15, full=120))
    workers = torch.get_num_threads()

    def against(id, side, goal, sentence, why, **more):
        b.claim(id, sentence, unit="bytes/s", better="higher", goal=(">=", goal), why=why,
                measured=run.figures("split", side, work=moved),
                settings=described("BHKSD", shape, threads=workers, **more))  # fmt: skip

    against("split", "unsplit", 1.6, "Over 65,536 keys, one row and one key head, a step in shares is at "
            "least 1.6 times as fast as with one worker a head", "one piece of work occupies one worker",
            sweep=lengths(b))  # fmt: skip
    against("sdpa-repeated", "SDPA, heads repeated", 1.2, "It is at least 1.2 times as fast as torch's SDPA "
            "over keys repeated for each query head", "to repeat reads once, writes 4 times, reads 4 times")
    against("sdpa", "torch's SDPA", 1.0, "It is at least as fast as torch's SDPA with enable_gqa",
            "torch's shares out the query heads, and each of them reads the keys anew")
    against("own-threads", "torch's own threads", 1.0, "It is at least as fast as one part with torch's own "
            "threads inside its products", "threads inside a product have to meet again after each operation")
    share = [moved / seconds / b.ceilings.read for seconds in run.sides["split"].seconds]
    b.claim("bandwidth", "It reads keys and values at 60 % or more of what this machine can read",
            unit="of read bandwidth", better="higher", goal=(">=", 0.6), bound=1.0,
            measured=values("split", share), settings={"bytes/s read at best": b.ceilings.read},
            why="what the two products and the exponentials of 4 rows cost beside the reading: see the "
                "profile; tried: keys or queries first, and blocks that fit a core's cache")  # fmt: skip


def step(b, B, H, K, S, D, budget):
    """(comparison of all sides of one step, bytes that have to be read)"""
    q, k, v = inputs(B, H, K, 1, S, D, device=b.device)
    return b.compare(steps_of(q, k, v), check=1e-5, memory=False, budget=budget), bytes_of(k, v)


def lengths(b):
    """Split beside unsplit against the number of keys."""
    sizes = b.pick(smoke=(64, 256), quick=(512, 4096, 32_768), full=(256, 1024, 4096, 16_384, 65_536))

    def at(S):
        q, k, v = inputs(1, 4, 1, 1, S, 128, device=b.device)
        sides = {name: call for name, call in steps_of(q, k, v).items() if name in ("unsplit", "split")}
        return b.compare(sides, check=1e-5, memory=False, budget=b.pick(smoke=0.2, quick=3, full=15))

    return b.sweep("keys", sizes, at, "split")


def bench_heads(b):
    """What a step holds beside its cache: 32 query heads, 8 key heads."""
    B, H, K, S, D = shape = b.pick(smoke=(1, 8, 2, 256, 16), quick=(1, 32, 8, 8192, 64),
                                   full=(1, 32, 8, 8192, 64))  # fmt: skip
    q, k, v = inputs(B, H, K, 1, S, D, device=b.device)
    look = torch.ones(1, S, dtype=torch.bool, device=b.device)
    sides = {"heads repeated": lambda: materialised(q, k, v, look), **steps_of(q, k, v, threads=1)}
    held = {name: peak_of(sides[name], b.device) for name in ("heads repeated", "split", "torch's SDPA")}
    b.claim("heads", "With 32 query heads over 8 key heads a step in shares holds at most 0.27 of what it "
            "holds with repeated keys and values", unit="bytes", better="lower", goal=("<=", 0.27),
            measured=values("split", [held["split"]], "heads repeated", [held["heads repeated"]]),
            prediction=4 * 4 * H * S / (2 * 4 * H * S * D + 4 * 4 * H * S),
            settings=described("BHKSD", shape, bytes_of_the_cache=bytes_of(k, v), torch=held["torch's SDPA"]),
            why="what is left are the scores, a few times over: D times less than the keys")  # fmt: skip


def errors(b, seed, sharp):
    """{side: largest error} against float64, over several numbers of shares, scores of spread `sharp`."""
    S = b.pick(smoke=500, quick=8192, full=32_768)
    q, k, v = inputs(1, 4, 1, 1, S, 64, device=b.device, seed=seed)
    q, reach = sharp * q, torch.tensor([[S]], device=b.device)
    want = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True)
    shares = [split_k.split(q, k, v, reach, splits=n, threads=1) for n in (2, 3, 16, 64)]
    torchs = [F.scaled_dot_product_attention(q, k, v, enable_gqa=True)]
    return {side: max((y - want).abs().max().item() for y in ys)
            for side, ys in (("split", shares), ("torch's SDPA", torchs))}  # fmt: skip


def bench_error(b):
    """The merge is exact: what remains is the rounding of float32."""
    seeds = range(b.pick(smoke=2, quick=8, full=16))
    for id, sharp, goal in (("error", 1.0, 1e-6), ("error-sharp", 6.0, None)):
        runs = [errors(b, seed, sharp) for seed in seeds]
        ours, theirs = ([run[side] for run in runs] for side in ("split", "torch's SDPA"))
        common = {"unit": "largest error", "better": "lower", "settings": {"spread of the scores": sharp}}
        if goal:
            b.claim(id, "Shares merged are at most 1e-6 from attention in float64", goal=("<=", goal),
                    measured=values("split", [max(ours)]), **common)  # fmt: skip
        else:
            b.claim(id, "With scores of spread 6 the largest error against float64 is at most twice that "
                    "of torch's", goal=("<=", 2.0), measured=values("split", ours, "torch's SDPA", theirs),
                    why="a share's weight is kept as a logarithm, whose last digit counts for more the "
                        "larger it is", **common)  # fmt: skip


def bench_chunk_error(b):
    """Forward and gradients in chunks, against float64."""
    found, T = {"chunked": [], "torch's SDPA": []}, b.pick(smoke=64, quick=1024, full=1024)
    for seed in range(b.pick(smoke=2, quick=6, full=16)):
        given = inputs(1, 4, 2, T, T, 64, device=b.device, seed=seed, gradients=True)
        exact = [x.detach().double().requires_grad_() for x in given]

        def sdpa(*x):
            return F.scaled_dot_product_attention(*x, is_causal=True, enable_gqa=True)

        def ours(*x):
            return chunked.chunked(*x, causal(T, b.device), queries=100, keys=60)

        want = torch.autograd.grad(sdpa(*exact).square().sum(), exact)
        for name, fn in (("chunked", ours), ("torch's SDPA", sdpa)):
            got = torch.autograd.grad(fn(*given).square().sum(), given)
            found[name].append(max((x - y).abs().max().item() for x, y in zip(got, want, strict=True)))
    b.claim("error-training", "The largest error of gradients in chunks, against float64, is at most twice "
            "that of torch's", unit="largest error", better="lower", goal=("<=", 2.0),
            measured=values("chunked", found["chunked"], "torch's SDPA", found["torch's SDPA"]))  # fmt: skip


def main(b):
    bench_memory(b)
    bench_time(b)
    bench_step(b)
    bench_heads(b)
    bench_error(b)
    bench_chunk_error(b)
    _gpu.bench_gpu(b)


def profiled(b):
    q, k, v = inputs(1, 4, 1, 1, b.pick(smoke=512, quick=65_536, full=65_536), 128, device=b.device)
    return steps_of(q, k, v)["split"]


if __name__ == "__main__":
    bench(main, profiled)
