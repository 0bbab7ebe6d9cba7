"""Passes that know attention with a static cache: turn once, write where it lies, look at what is there.

Where a pattern has to hold for numbers and not for names (is this mask causal?), the numbers are looked at.

Seam: none; graphs. Su et al. 2021, 2104.09864 (RoPE); project 8 (why a cache of fixed sizes).
"""

from itertools import pairwise

import torch
from torch.fx import Node

from common.exercise import exercise

from . import kernels
from .capture import look_up
from .rewrite import (
    found,
    input_named,
    insert,
    is_a,
    part,
    place_of,
    replace,
    reshaped,
    sized,
    val,
)

aten = torch.ops.aten


# ---- rope ----


def halves(node):
    """(x, i) if a node is half i of x along the last dimension, else None."""
    cut = node.args[0] if is_a(node, "getitem") else None
    if is_a(cut, "chunk") and cut.args[1:] == (2, -1):
        return cut.args[0], node.args[1]
    return None


def factors(node):
    """{half: the other factor} and x, of a product of a half of x with something, else None."""
    if is_a(node, "mul") and len(node.args) == 2 and isinstance(node.args[1], Node):
        half = halves(node.args[0])
        if half:
            return half[0], half[1], node.args[1]
    return None


def fuse_rope(gm):
    """cat(x1·c − x2·s, x2·c + x1·s) of the halves of x becomes turn(x, (c, c), (−s, s)): eight nodes to one.

    The two long tables are nodes of their own, made of c and s; they depend on positions as those do.
    """
    count = 0
    for cat in found(gm, "cat"):
        if len(cat.args[0]) != 2 or not (is_a(cat.args[0][0], "sub") and is_a(cat.args[0][1], "add")):
            continue
        sides = [[factors(node) for node in side.args[:2]] for side in cat.args[0]]
        if not all(all(pair) for pair in sides):
            continue
        ((x, i, c), (x2, j, s)), ((x3, k, c2), (x4, m, s2)) = sides
        if not (x is x2 is x3 is x4 and (i, j, k, m) == (0, 1, 1, 0) and c is c2 and s is s2):
            continue
        wide = [*val(c).shape[:-1], 2 * val(c).shape[-1]]
        minus = insert(gm, cat, aten.neg.default, s, val=val(s))
        cos = insert(gm, cat, aten.cat.default, [c, c], -1, val=sized(c, *wide))
        sin = insert(gm, cat, aten.cat.default, [minus, s], -1, val=sized(s, *wide))
        replace(cat, insert(gm, cat, kernels.turn, x, cos, sin, val=val(cat)))
        count += 1
    return count


def head_part(node):
    """(y, start, end, D) if a node is transpose(unflatten(a part of y)): the heads between two places."""
    heads = node.args[0] if is_a(node, "transpose") and node.args[1:] == (1, 2) else None
    cut = heads.args[0] if is_a(heads, "unflatten") else None
    if not is_a(cut, "slice"):
        return None
    y, _, start, end = cut.args
    return y, start, end, val(node).shape[-1]


def merge_turns(gm):
    """Two `turn`s of neighbouring heads of one product, by the same angles, become one of all these heads."""
    count, turns = 0, found(gm, kernels.turn)
    for first, second in pairwise(turns):
        one, two = head_part(first.args[0]), head_part(second.args[0])
        if not (one and two and one[0] is two[0] and one[2] == two[1] and one[3] == two[3]):
            continue
        if first.args[1:] != second.args[1:]:
            continue
        y, start, end, D = one[0], one[1], two[2], one[3]
        H, n = val(first).shape[1], (end - start) // D
        both = part(gm, first, y, val(y).dim() - 1, start, end)
        both = insert(gm, first, aten.unflatten.int, both, -1, [-1, D], val=sized(y, 1, 1, n, D))
        both = insert(gm, first, aten.transpose.int, both, 1, 2, val=sized(y, 1, n, 1, D))
        both = insert(gm, first, kernels.turn, both, *first.args[1:], val=sized(y, 1, n, 1, D))
        replace(first, part(gm, first, both, 1, 0, H))
        replace(second, part(gm, second, both, 1, H, n))
        count += 1
    return count


# ---- the cache ----


def write_in_place(gm):
    """index_put_ of one token (K, D) into slots (1, K, size, D) at [rows, :, positions] becomes a `write` at
    the position's number. Only where the rows are row 0, looked at as numbers."""
    positions, size, count = input_named(gm, "positions"), gm.meta["slots"], 0
    for node in found(gm, "index_put_"):
        slots, index, new = node.args[:3]
        known = len(index) == 3 and index[1] is None and index[2] is positions and slots.op == "get_attr"
        rows = look_up(gm, index[0].target) if known and index[0].op == "get_attr" else None
        if rows is None or rows.any() or val(slots).shape[0] != 1 or val(slots).shape[2] != size:
            continue
        flat = reshaped(gm, node, new, *val(slots).shape[1::2])
        at = place_of(gm, positions)
        replace(node, insert(gm, node, kernels.write, slots, flat, at, val=val(slots)))
        count += 1
    return count


@exercise
def look_at_filled(gm):
    """Attention of one query under a causal mask becomes attention without one, over what is filled only.

    The mask has become a table (`tabulate`): row `at` must be True in exactly the first at + 1 slots. That is
    looked up, number by number: a window or anything else stays as it is.
    """
    count = 0
    for node in found(gm, "scaled_dot_product_attention"):
        if len(node.args) < 4 or not is_a(node.args[3], kernels.row):
            continue
        (q, k, v, mask), (B, H, T, D) = node.args[:4], val(node.args[0]).shape
        table, at = look_up(gm, mask.args[0].target), mask.args[1]
        K, size = val(k).shape[1:3]
        causal = torch.ones(size, size, dtype=torch.bool).tril()
        fits = B == T == 1 and table.dtype == torch.bool and table.numel() == size * size
        if not fits or not torch.equal(table.view(size, size).cpu(), causal) or "scale" in node.kwargs:
            continue
        grouped = reshaped(gm, node, q, 1, K, H // K, D)
        y = insert(gm, node, kernels.attend_filled, grouped, k, v, at, val=sized(q, 1, K, H // K, D))
        replace(node, reshaped(gm, node, y, 1, H, 1, D))
        count += 1
    return count
