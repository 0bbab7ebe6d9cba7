"""Runs that others have published, to hold the planner against: what it says, and what they measured.

Narayanan et al. 2021 (2104.04473), table 1: GPT with blocks recomputed, 2048 tokens, on A100. Their share of
the peak counts recomputation, so ours is multiplied by 4/3 for the comparison. Llama team 2024 (2407.21783),
table 4: Llama 3 405B on H100, nothing recomputed; their MFU. How often a stage comes round is not in these
tables: two rounds are assumed for Megatron's pipelines and four for Llama's; micro-batches are one sequence.
"""

from typing import NamedTuple

from .layouts import MACHINES, Layout, Machine, Shape, costs


class Published(NamedTuple):
    """A run; share: of the peak, as published."""

    name: str
    shape: Shape
    layout: Layout
    machine: Machine
    share: float
    counts_recomputation: bool


def megatron(billions, heads, width, blocks, t, p, gpus, batch, share) -> Published:
    shape = Shape(blocks, width, heads, heads, billions * 1e9, 51_200, 2048, batch)
    layout = Layout(t, p, gpus // (t * p), 1, 1, 2 if p > 1 else 1, True)
    return Published(f"Megatron {billions:g}B", shape, layout, MACHINES["A100"], share, True)


def llama(gpus, c, d, context, batch, share) -> Published:
    shape = Shape(126, 16_384, 128, 8, 405e9, 128_256, context, batch)
    name = f"Llama 3 405B, {gpus:,} GPUs, {context:,} tokens"
    return Published(name, shape, Layout(8, 16, d, c, 1, 4), MACHINES["H100"], share, False)


PUBLISHED = [
    megatron(1.7, 24, 2304, 24, 1, 1, 32, 512, 0.44), megatron(3.6, 32, 3072, 30, 2, 1, 64, 512, 0.44),
    megatron(7.5, 32, 4096, 36, 4, 1, 128, 512, 0.46), megatron(18.4, 48, 6144, 40, 8, 1, 256, 1024, 0.43),
    megatron(39.1, 64, 8192, 48, 8, 2, 512, 1536, 0.44),
    megatron(76.1, 80, 10240, 60, 8, 4, 1024, 1792, 0.45),
    megatron(145.6, 96, 12288, 80, 8, 8, 1536, 2304, 0.47),
    megatron(310.1, 128, 16384, 96, 8, 16, 1920, 2160, 0.50),
    megatron(529.6, 128, 20480, 105, 8, 35, 2520, 2520, 0.52),
    megatron(1008, 160, 25600, 128, 8, 64, 3072, 3072, 0.52),
    llama(8192, 1, 64, 8192, 2048, 0.43), llama(16384, 1, 128, 8192, 2048, 0.41),
    llama(16384, 16, 8, 131_072, 128, 0.38),
]  # fmt: skip


def predicted(run: Published) -> float:
    """What the planner says of a run, in the run's own count."""
    mfu = costs(run.shape, run.layout, run.machine).mfu
    return mfu * 4 / 3 if run.counts_recomputation else mfu
