"""What the scripts compare: attends by name, inputs, how a time grows with the length, SDPA with a mask."""

import math

import torch
import torch.nn.functional as F

from common import model
from common.errors import demand

from . import learned, patterns
from .block_sparse import attention, sparse, work_of

NAMES = ("dense", "window", "sinks", "longformer", "bigbird", "fixed", "strided", "routed")


def root(length):
    """The block with which fixed and strided patterns ask for n sqrt n pairs."""
    return max(1, round(math.sqrt(length)))


def pattern_of(name, length, width):
    """A pattern by name for rows of so many tokens. width: of windows, and four blocks of BigBird."""
    made = {
        "dense": patterns.causal,
        "window": lambda: patterns.window(width),
        "sinks": lambda: patterns.sinks(width),
        "longformer": lambda: patterns.longformer(width, range(0, length, max(1, length // 4))),
        "bigbird": lambda: patterns.bigbird(max(1, width // 4)),
        "fixed": lambda: patterns.fixed(root(length)),
        "strided": lambda: patterns.strided(root(length)),
    }
    demand(name in made, f"there is no pattern {name!r}: {', '.join(made)}")
    return made[name]()


def attend_of(name, length, width):
    """An attend by name; "routed" reads as many keys as a window would, in blocks."""
    if name == "dense":
        return model.attend
    if name == "routed":
        block = max(1, width // 4)
        return learned.routed(block, 4)
    return sparse(pattern_of(name, length, width))


def inputs(H, T, D, *, K=None, B=1, device="cpu", dtype=torch.float32, seed=0):
    """q (B, H, T, D), k and v (B, K, T, D), normal."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((B, n, T, D) for n in (H, K or H, K or H))
    return [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]


def dense(q, k, v):
    """torch's fused kernel over all that came before."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))


def over(pattern, tile=None):
    """A call of q, k, v: our attention over a pattern, of a whole row."""

    def call(q, k, v):
        T = q.size(2)
        return attention(q, k, v, work_of(pattern, torch.arange(T), tile=tile or max(32, min(256, root(T)))))

    return call


def slope(lengths, values):
    """The power of the length with which the values grow: the slope of a line through their logarithms."""
    x, y = (torch.tensor(list(z), dtype=torch.float64).log() for z in (lengths, values))
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / (x * x).sum()).item()
