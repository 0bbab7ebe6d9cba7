"""All passes in their order, and the step that comes out, ready to be driven.

    step = Optimised(model, caches)                     # project 8's static caches, of one row
    decode_ragged(model, [prompt], 100, caches, step=step)

The order is an argument, not a taste: constants are folded before common nodes are looked for, as folding
makes more of them alike; angles become tables before a mask is asked whether it is causal, as it is asked by
its numbers; products become vectors before norms and residuals can go into them.

Seam: a function in the model's place for single tokens (project 8's `decode_ragged`).
"""

import time
from dataclasses import dataclass

import torch

from common.errors import demand
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for

from .capture import capture, computing
from .fusion import fuse_activation, fuse_norm, fuse_residual, merge_products, use_vectors
from .heads import fuse_rope, look_at_filled, merge_turns, write_in_place
from .passes import (
    collapse_views,
    drop_identities,
    fold_constants,
    remove_common,
    remove_dead,
    tabulate,
)
from .plan import choose_layout, plan
from .rewrite import forget

GENERAL = (drop_identities, fold_constants, remove_common)  # for any model on any device
PASSES = (
    drop_identities, fold_constants, fuse_rope, remove_common, tabulate, merge_products, merge_turns,
    write_in_place, look_at_filled, use_vectors, collapse_views, fuse_norm, fuse_activation, fuse_residual,
    collapse_views, choose_layout)  # fmt: skip


@dataclass(frozen=True)
class Applied:
    """What a pass did: how many nodes it changed, how many there are after it, how many compute; seconds."""

    name: str
    changed: int
    nodes: int
    computing: int
    seconds: float


@torch.no_grad()
def optimise(gm, passes=PASSES):
    """Apply passes to a graph, in place, each followed by `remove_dead`: a list of Applied."""
    done = [Applied("captured", 0, len(gm.graph.nodes), computing(gm), 0.0)]
    for one in passes:
        start = time.perf_counter()
        changed = one(gm)
        remove_dead(gm)
        forget(gm)
        gm.graph.lint()
        spent = time.perf_counter() - start
        done.append(Applied(one.__name__, changed, len(gm.graph.nodes), computing(gm), spent))
    gm.recompile()
    return done


class Optimised:
    """A decode step rewritten and planned: step(tokens (1, 1), positions=(1, 1), caches=…) -> (1, 1, V).

    caches: project 8's static caches of one row, that the step goes on writing to; None makes new ones as
    long as the context. The logits are overwritten by the next step. UserError for other caches, or for more
    than one token. Weights are those at the time of making: train the model further, and make the step anew.
    """

    def __init__(self, model, caches=None, passes=PASSES):
        start = time.perf_counter()
        self.caches = caches or caches_for(model, StaticCache, 1, model.config.max_seq_len)
        self.gm = capture(model, self.caches)
        self.capture_seconds = time.perf_counter() - start
        self.applied = optimise(self.gm, passes)
        self.plan = plan(self.gm)
        self.seconds = time.perf_counter() - start

    def __call__(self, tokens, *, positions, caches=None):
        demand(caches is None or caches is self.caches, "this step writes into the caches it was made with: "
               "pass those")  # fmt: skip
        demand(tokens.shape == (1, 1) == positions.shape, f"one token at a time, not {(*tokens.shape,)}")
        return self.plan.call(tokens, positions)
