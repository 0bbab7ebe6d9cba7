"""What is measured on a GPU alone: the kernel beside project 9's dense one and FlexAttention."""

import torch

from phase03_core_inference.project09_flash_attention.tiled import reach_of

from . import patterns
from ._sides import inputs, root, slope

AT = "32,768 tokens in bfloat16, forward, fixed blocks: the kernel is at least "
# (id, sentence, rival, goal)
CLAIMS = (
    ("gpu-dense", AT + "6 times as fast as project 9's dense one", "dense kernel", 6.0),
    ("gpu-flex", AT + "as fast as FlexAttention on the same mask", "FlexAttention", 1.0),
)
SLOPE = "gpu-slope", "Its time grows at most with n^1.6, from 8,192 to 65,536 tokens", 1.6


def bench_gpu(b):
    """The claims about the kernel; where there is no GPU, each of them says so."""
    if b.device.type == "cuda":  # pragma: no cover - gpu
        return measure(b)
    for name, sentence, _, goal in CLAIMS:
        b.not_run(name, sentence, unit="s", better="higher", goal=(">=", goal), why="no CUDA device")
    name, sentence, goal = SLOPE
    return b.not_run(name, sentence, unit="power of n", better="lower", goal=("<=", goal),
                     why="no CUDA device")  # fmt: skip


@torch.no_grad()
def measure(b):  # pragma: no cover - gpu
    from phase03_core_inference.project09_flash_attention import triton_kernel as dense_kernel

    from . import triton_kernel

    T = b.pick(smoke=2048, quick=32_768, full=32_768)
    q, k, v = inputs(8, T, 64, device=b.device, dtype=torch.bfloat16)
    pattern, reach = patterns.fixed(root(T)), reach_of(torch.arange(T, device=b.device))
    sides = {"dense kernel": lambda: dense_kernel.flash(q, k, v, reach),
             "FlexAttention": flex(pattern, q, k, v),
             "sparse kernel": lambda: triton_kernel.attention(q, k, v, pattern)}  # fmt: skip
    want, got = sides["FlexAttention"](), sides["sparse kernel"]()
    assert (want - got).abs().max() <= 0.05 * want.abs().max(), "the kernel and FlexAttention differ"
    run = b.compare(sides, check=lambda a, c: a.shape == c.shape)
    for name, sentence, rival, goal in CLAIMS:
        b.claim(name, sentence, unit="calls/s", better="higher", goal=(">=", goal),
                measured=run.figures("sparse kernel", rival, work=1))  # fmt: skip
    lengths = b.pick(smoke=(1024, 2048), quick=(8192, 16_384, 32_768, 65_536),
                     full=(8192, 16_384, 32_768, 65_536))  # fmt: skip
    name, sentence, goal = SLOPE
    b.claim(name, sentence, unit="power of n", better="lower", goal=("<=", goal), prediction=1.5,
            measured={"ours": slope_of(b, lengths, triton_kernel)})  # fmt: skip


def slope_of(b, lengths, kernel):  # pragma: no cover - gpu
    from common.profiling import shortest
    from common.results import Figure
    seconds = []
    for T in lengths:
        q, k, v = inputs(8, T, 64, device=b.device, dtype=torch.bfloat16)
        pattern = patterns.fixed(root(T))
        seconds.append(shortest(lambda q=q, k=k, v=v, p=pattern: kernel.attention(q, k, v, p), b.device, 0.5))
    return Figure("sparse kernel", slope(lengths, seconds))


def flex(pattern, q, k, v):  # pragma: no cover - gpu
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    T, compiled = q.size(2), torch.compile(flex_attention)
    size = pattern.parts[0].size

    def rule(b, h, t, s):
        return (s <= t) & ((t // size == s // size) | (s % size == size - 1))

    blocks = create_block_mask(rule, None, None, T, T, device=q.device)
    return lambda: compiled(q, k, v, block_mask=blocks)
