"""Both products of attention as weighted sums of rows of codes, which nobody makes floats of before.

    scores of a group  = sum over channels  q_d * (row d of the group)
    answer             = sum over tokens    p_s * (row s)

A recommender does little else all day: it adds up rows of tables, chosen by number. Its operation is called
`embedding_bag`, a *bag* being the rows that are added up. torch has it for rows of 8, 4 and 2 bits: a float
comes into being in a register, on its way to be multiplied, and memory gives one byte, or less, for each.

Came before: `paged` of project 13, whose values are added up so, as floats. New here: keys too, because a row
of keys is a channel; and the rows are codes. Khudia et al. 2021, "FBGEMM", 2101.05615 (the loops inside).
"""

from functools import lru_cache

import torch

from common.exercise import exercise

from .rows import Rows, unpack

BAGS = {8: "byte", 4: "4bit", 2: "2bit"}


def bags(rows, places, each, weights):
    """Sums of `each` rows, with a weight for every one: places and weights (N,) -> (N / each, W), float32.

    rows: Rows of any leading shape, all in one piece; places count them through, int32.
    """
    add = getattr(torch.ops.quantized, f"embedding_bag_{BAGS[rows.bits]}_rowwise_offsets")
    table, begins = rows.table.flatten(0, -2), torch.arange(0, len(places) + 1, each, dtype=torch.int32)
    return add(table, places, begins, per_sample_weights=weights, include_last_offset=True)


@lru_cache(maxsize=8)
def key_places(heads, room, n, g, D):
    """Of a table with `room` groups of D rows a head: for each head, group below n and query, all D."""
    first = (torch.arange(heads)[:, None] * room + torch.arange(n)) * D  # (heads, n)
    rows = first[:, :, None, None] + torch.arange(D)  # (heads, n, 1, D)
    return rows.expand(-1, -1, g, -1).flatten().int()


@lru_cache(maxsize=8)
def value_places(heads, room, S, g, C):
    """Of a table with `room` tokens of C rows a head: for each head, c and query, all tokens below S."""
    tokens = torch.arange(heads)[:, None, None] * room + torch.arange(S)  # (heads, 1, S)
    rows = tokens * C + torch.arange(C)[:, None]  # (heads, C, S)
    return rows[:, :, None].expand(-1, -1, g, -1).flatten().int()


@exercise
def scores(q, keys, n):
    """q · k of the first n groups: q (B, K, g, D), float32; keys Rows (B, K, groups, D, G) -> (B, K, g, nG).

    A bag for each row, head, group and query: `key_places`. Its weights are the query's D numbers.
    """
    B, K, g, D = q.shape
    places = key_places(B * K, keys.table.size(2), n, g, D)
    weights = q.unsqueeze(2).expand(-1, -1, n, -1, -1)  # (B, K, n, g, D)
    found = bags(keys, places, D, weights.reshape(-1))  # (B * K * n * g, G)
    return found.view(B, K, n, g, -1).transpose(2, 3).flatten(-2)


def sums(p, values):
    """The sum of p · v over the first S tokens: p (B, K, g, S), float32, values Rows (B, K, tokens, C, W) ->
    (B, K, g, C * W)."""
    (B, K, g, S), C = p.shape, values.table.size(3)
    places = value_places(B * K, values.table.size(2), S, g, C)
    weights = p.unsqueeze(2).expand(-1, -1, C, -1, -1)  # (B, K, C, g, S)
    found = bags(values, places, S, weights.reshape(-1))  # (B * K * C * g, W)
    return found.view(B, K, C, g, -1).transpose(2, 3).flatten(-2)


@exercise
def integer_scores(q, keys, n):
    """As `scores`, but what is multiplied are whole numbers: the query becomes int8 as well.

    A group's scales are put on the query, which then has for this group a unit of its own, its largest
    absolute value / 127, and is rounded to whole numbers of it. The sum over D is exact in int32; the unit
    multiplies what comes out, and the lows add one number to all tokens of a group.
    """
    keys = Rows(keys.table[:, :, :n], keys.bits)
    own = q.unsqueeze(2) * keys.scale.to(q.dtype).transpose(-2, -1)  # (B, K, n, g, D)
    unit = own.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127  # (B, K, n, g, 1)
    whole = (own / unit).round().to(torch.int8)
    products = whole.int() @ unpack(keys.codes, keys.bits).int()  # (B, K, n, g, G)
    found = products * unit + q.unsqueeze(2) @ keys.low.to(q.dtype)
    return found.transpose(2, 3).flatten(-2)
