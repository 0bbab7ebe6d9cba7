"""What is measured on a GPU alone: the grouped product in Triton, beside a dense layer and torch's own."""

from functools import partial

import torch

from . import grouped
from ._sides import alike, and_back, flops, layer, routed
from .moe import loop, sorted_segments

LAYER = "16,384 tokens, 2 of 64 experts, bfloat16, forward and backward: the layer is at least "
# (id, sentence, rival, goal)
CLAIMS = (
    ("gpu-dense", LAYER + "0.85 times as fast as a dense layer of as many FLOPs", "dense", 0.85),
    ("gpu-torch", LAYER + "as fast as with torch._grouped_mm", "torch._grouped_mm", 1.0),
    ("gpu-loop", LAYER + "5 times as fast as the loop", "loop", 5.0),
)


def bench_gpu(b):
    """The claims about the kernel; where there is no GPU, each of them says so."""
    if b.device.type == "cuda":  # pragma: no cover - gpu
        return measure(b)
    for name, sentence, _, goal in CLAIMS:
        b.not_run(name, sentence, unit="tokens/s", better="higher", goal=(">=", goal), why="no CUDA device")


def measure(b):  # pragma: no cover - gpu
    from . import triton_grouped

    large = 16384, 1024, 4096, 64
    N, C, F, E = b.pick(smoke=(1024, 256, 512, 8), quick=large, full=large)
    made, dense = layer(C, F, E, 2, b.device, torch.bfloat16)
    x = torch.randn(N, C, device=b.device, dtype=torch.bfloat16, requires_grad=True)
    routing = routed(made, x)
    sides = {}
    for name, product in (("triton", triton_grouped.product), ("torch._grouped_mm", grouped.by_torch)):
        stacked = grouped.Stacked(made.experts, product).to(b.device)
        call = partial(sorted_segments, x, routing, stacked, grouped.by_counts)
        sides[name] = and_back(call, [x, *stacked.parameters()])
    plain = made.experts
    sides["loop"] = and_back(lambda: loop(x, routing, plain), [x, *plain.parameters()])
    sides["dense"] = and_back(lambda: dense(x), [x, *dense.parameters()])
    run = b.compare(sides, check=alike, memory=False, counts={"triton": {"FLOPs": flops(N, C, F)}})
    for name, sentence, rival, goal in CLAIMS:
        fastest = N * b.ceilings.bf16 / flops(N, C, F)
        measured = run.figures("triton", rival, work=N)
        b.claim(name, sentence, unit="tokens/s", better="higher", goal=(">=", goal), measured=measured,
                bound=fastest / measured["baseline"].value)  # fmt: skip
