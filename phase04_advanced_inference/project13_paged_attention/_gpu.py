"""What is measured on a GPU alone: the Triton kernel over pages, over neighbours, and gathered for SDPA."""

import torch
import torch.nn.functional as F

from .paged_attention import View, gathered, kernel

# (id, sentence, the other side, goal)
CLAIMS = (
    ("gpu-contiguous", "64 rows of 4,096 tokens in bfloat16, one query each: the kernel over scattered pages "
     "of 16 is at least 0.95 times as fast as over pages side by side", "side by side", 0.95),
    ("gpu-gather", "The same: at least 3 times as fast as gathering and then SDPA", "gathered", 3.0),
)  # fmt: skip


def bench_gpu(b):
    """The claims about the kernel; where there is no GPU, each of them says so."""
    if b.device.type == "cuda" and kernel() is not None:  # pragma: no cover - gpu
        return measure(b)
    for name, sentence, _, goal in CLAIMS:
        b.not_run(name, sentence, unit="GB/s", better="higher", goal=(">=", goal),
                  why="no CUDA device, or Triton is not installed")  # fmt: skip


def measure(b):  # pragma: no cover - gpu
    B, H, K, S, D, size = 64, 32, 8, b.pick(smoke=512, quick=4096, full=4096), 128, 16
    k, v = (torch.randn(B * S // size, K, size, D, device=b.device, dtype=torch.bfloat16) for _ in "kv")
    q = torch.randn(B, H, 1, D, device=b.device, dtype=torch.bfloat16)
    positions = torch.full((B, 1), S - 1, device=b.device)
    views = {"side by side": torch.arange(B * S // size), "paged": torch.randperm(B * S // size)}
    views = {name: View(order.view(B, -1).tolist(), size, positions) for name, order in views.items()}
    # the same keys and values under either table, so that both sides have one answer
    pools = {"side by side": (k, v), "paged": (torch.empty_like(k), torch.empty_like(v))}
    for x, y in zip(pools["paged"], (k, v), strict=True):
        x[views["paged"].tables] = y[views["side by side"].tables]
    sides = {name: lambda name=name: kernel().paged(q, *pools[name], views[name]) for name in pools}
    sides["gathered"] = lambda: F.scaled_dot_product_attention(
        q, *(gathered(x, *views["paged"].all) for x in pools["paged"]), enable_gqa=True)  # fmt: skip
    run, work = b.compare(sides, check=0.02), 2 * B * S * K * D * 2 / 1e9
    for name, sentence, other, goal in CLAIMS:
        b.claim(name, sentence, unit="GB/s", better="higher", goal=(">=", goal),
                bound=b.ceilings.read / 1e9, measured=run.figures("paged", other, work=work))  # fmt: skip
