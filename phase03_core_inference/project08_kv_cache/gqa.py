"""Fewer keys and values: a trained model with H of them becomes one with G; its cache is H / G times smaller.

Came before: `kv_cache.py`. Weights apart, what a decode step has to read is the cache. New here: groups of
query heads share one key and value head, put there *after* training by taking the mean of those they had.
The model is then wrong, a little; a short re-training mends it (5 % of the steps in the paper).

    MHA   q q q q q q q q      GQA   q q q q q q q q      MQA   q q q q q q q q
          k k k k k k k k             └k─┘ └k─┘ …               └──────k──────┘

Seams: the surgery, on two of the four projections of each attention, as the core knows K < H already; and
`attend`, where a decode step reads each shared key once instead of once for every query head.
Ainslie et al. 2023, 2305.13245 (GQA, and the conversion); Shazeer 2019, 1911.02150 (MQA).
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import demand
from common.exercise import exercise
from common.model import Attention, attend


def cache_bytes(config, tokens=1, itemsize=4):
    """Bytes of keys and values of so many tokens: 2 · layers · K · D · itemsize each."""
    return 2 * config.n_layer * config.n_kv_head * config.head_dim * itemsize * tokens


def first_of(weight, head_dim, groups):
    """The first head of each group, the others dropped: what the mean is compared with."""
    heads = weight.unflatten(0, (groups, -1, head_dim))  # (G, K / G, D, C)
    return heads[:, 0].flatten(0, 1)  # (G · D, C)


@exercise
def pool_heads(weight, head_dim, groups):
    """The weight (K · D, C) of K key or value heads, pooled into `groups` heads: (G · D, C), a new tensor.

    Head g becomes the mean of the K / G heads g·K/G, …: query heads that lie side by side share one.
    """
    heads = weight.unflatten(0, (groups, -1, head_dim))  # (G, K / G, D, C)
    return heads.mean(1).flatten(0, 1)


@torch.no_grad()
def pooled(linear, head_dim, groups, pool):
    """A key or value projection of `groups` heads, made from one of more heads."""
    new = nn.Linear(linear.in_features, groups * head_dim, bias=False).to(linear.weight)
    new.weight.copy_(pool(linear.weight, head_dim, groups))
    return new.train(linear.training)


@exercise
def regroup(model, groups, pool=pool_heads):
    """Give every attention of the model `groups` key and value heads, pooled; return the model, changed.

    Queries, output and everything else stay; model.config says the new n_kv_head, so that it can be saved.
    UserError where the heads it has cannot be cut into `groups` equal parts.
    """
    had = model.config.n_kv_head
    demand(groups >= 1 and had % groups == 0, f"{had} key and value heads cannot be pooled into {groups}: "
           f"choose a divisor of {had}")  # fmt: skip
    for attention in (module for module in model.modules() if isinstance(module, Attention)):
        attention.wk = pooled(attention.wk, attention.head_dim, groups, pool)
        attention.wv = pooled(attention.wv, attention.head_dim, groups, pool)
    model.config = replace(model.config, n_kv_head=groups)
    return model


def folded(q, k, v, *, positions, cache=None, mask=None):
    """attend; of a single token with a counting cache, the query heads of a group are rows of one product.

    All of them look at the same keys, and a single token looks at all that are filled: there is no mask.
    """
    if cache is None or mask is not None or positions.dim() > 1 or q.size(2) > 1:
        return attend(q, k, v, positions=positions, cache=cache, mask=mask)
    k, v = cache.update(k, v, positions)  # (B, K, S, D)
    rows = q.unflatten(1, (k.size(1), -1)).squeeze(3)  # (B, K, H / K, D)
    return F.scaled_dot_product_attention(rows, k, v).flatten(1, 2).unsqueeze(2)  # (B, H, 1, D)
