"""What several operations become when they are fused: one function, with a place for its result.

All of them are for a single token. A row of one is a vector, and a product with a vector reads its weight
once, at the speed of memory. What surrounds it should not be a trip through the dispatcher each: so the norm
becomes a number by which the product is scaled on the way, and the residual is what it is added to.

`out`: where to write, for who has planned the memory (plan.py); None makes a new tensor. Seam: none; these
are nodes of a graph. Intel's oneDNN and ONNX Runtime fuse the same way ("post-ops").
"""

import torch
import torch.nn.functional as F

from common.errors import demand


def place(positions, size):
    """positions (1, 1) -> its number, an int; UserError where a cache of `size` slots has none."""
    at = positions.item()
    demand(0 <= at < size, f"position {at} in a cache of {size} slots")
    return at


def row(table, at):
    """What a table (size, …) holds at a place: (…)."""
    return table[at]


def pick(weight, tokens, out=None):
    """The embedding's row of one token: weight (V, C), tokens (1,) -> (1, C)."""
    return torch.index_select(weight, 0, tokens, out=out)


def product(x, weight, out=None):
    """weight (N, C) times x (C,): (N,)."""
    return torch.mv(weight, x, out=out)


def norm_product(x, weight, eps, out=None):
    """weight (N, C) times x (C,) divided by the root of its mean square: (N,). The norm costs one number."""
    out = x.new_empty(len(weight)) if out is None else out
    scale = (x.dot(x).item() / len(x) + eps) ** -0.5
    return torch.addmv(out, weight, x, beta=0, alpha=scale, out=out)  # beta 0: what out holds is not read


def product_add(x, weight, residual, out=None):
    """residual (N,) plus weight (N, C) times x (C,): (N,)."""
    return torch.addmv(residual, weight, x, out=out)


def norm_gated(x, weight, eps, out=None):
    """silu of the first half of `norm_product`, times its second half: weight (2N, C) -> (N,)."""
    both = norm_product(x, weight, eps)
    return torch.mul(F.silu(both[: len(both) // 2], inplace=True), both[len(both) // 2 :], out=out)


def gelu_product(x, weight, bias, out=None):
    """GELU of weight (N, C) times x (C,) plus bias (N,): (N,). GPT-2's feed-forward."""
    return torch.ops.aten.gelu.out(torch.addmv(bias, weight, x), out=x.new_empty(len(weight)) if out is None
                                   else out)  # fmt: skip


def turn(x, cos, sin, out=None):
    """RoPE: x (n, D) with cos and sin (1, D), as long as a head, sin with its first half negative."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin, out=out)


def write(slots, new, at):
    """Put new (K, D) at a place of slots (1, K, size, D), where they lie; returns the slots."""
    slots[0, :, at].copy_(new)
    return slots


def attend_filled(q, k, v, at):
    """One query of each head, q (1, K, G, D), over the slots up to `at` of k and v (1, K, size, D).

    G query heads share a key head: to the kernel they are G rows of one. No mask: what lies beyond `at` is
    not looked at, so it need not be hidden.
    """
    return F.scaled_dot_product_attention(q, k[:, :, : at + 1], v[:, :, : at + 1])
