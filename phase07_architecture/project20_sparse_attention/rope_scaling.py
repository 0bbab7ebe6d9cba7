"""A longer context for a model that was trained on a short one: RoPE's angles, brought back into range.

Before: `common.model.Rope` turns pair i of a head by position x theta^(-2i/D). A fast pair makes many turns
within the context, a slow one only part of a turn; beyond the context slow pairs stand at angles that the
model has never seen, and it fails at once. New here: three ways to slow them down, so that no angle is new.

    linear    every pair `factor` times as slow: positions are squeezed. Neighbours come closer, too
    NTK       another theta: the slowest pair becomes `factor` times as slow, the fastest hardly changes
    YaRN      pairs with many turns stay, those with less than one are slowed, a ramp between; and attention
              is sharpened, as it spreads over more keys

Seam: `swap`. Chen et al. 2023, arXiv 2306.15595 (linear); bloc97 2023 (NTK, a post in a forum); Peng et al.
2023, arXiv 2309.00071 (YaRN)."""

import math
from dataclasses import replace

import torch

from common import hub
from common.errors import demand
from common.exercise import exercise
from common.model import Rope, swap

FAST, SLOW = 32.0, 1.0  # turns within the old context: above FAST a pair stays, below SLOW all is slowed


def plain(theta, head_dim, device=None):
    """What each pair turns per position, float32 (D/2,): 1 radian the first, 1/theta almost the last."""
    return theta ** (-torch.arange(0, head_dim, 2, device=device).float() / head_dim)


@exercise
def linear(theta, head_dim, factor, context, device=None):
    """All pairs `factor` times as slow: float32 (D/2,), radians per position."""
    return plain(theta, head_dim, device) / factor


@exercise
def ntk(theta, head_dim, factor, context, device=None):
    """The plain angles of another theta, float32 (D/2,): pair i is slowed by factor^(2i / (D - 2)), the first
    not at all, the last by `factor`."""
    return plain(theta * factor ** (head_dim / (head_dim - 2)), head_dim, device)


@exercise
def yarn(theta, head_dim, factor, context, device=None):
    """Each pair by the number of its turns within the old context, float32 (D/2,).

    A pair makes context * angle / 2 pi turns. The number i, a fraction, of the pair that makes FAST turns,
    rounded down and at least 0, begins a ramp; that of the pair that makes SLOW turns, rounded up and at most
    D - 1, ends it. Before the ramp pairs keep their angle, behind it they are `factor` times as slow, on it
    the two angles are mixed in proportion. Where it begins and ends at one pair it is 0.001 wide.
    """
    angles = plain(theta, head_dim, device)
    begin, end = (head_dim * math.log(context / (2 * math.pi * turns)) / (2 * math.log(theta))
                  for turns in (FAST, SLOW))  # fmt: skip
    begin, end = max(math.floor(begin), 0), min(math.ceil(end), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, device=device) - begin) / max(end - begin, 0.001)
    slowed = ramp.clamp(0, 1)
    return angles * (1 - slowed) + angles / factor * slowed


WAYS = {"linear": linear, "ntk": ntk, "yarn": yarn}


class ScaledRope(Rope):
    """Rope with the angles of one of WAYS. context: how many tokens the model was trained on.

    YaRN multiplies cos and sin by 0.1 ln(factor) + 1, and so the scores by its square.
    """

    def __init__(self, old, way, factor, context):
        super().__init__(old.head_dim, old.theta)
        demand(way in WAYS, f"RoPE is scaled by {', '.join(WAYS)}, not by {way!r}")
        demand(factor >= 1, f"a context becomes at least as long as it was: a factor of {factor} is below 1")
        demand(old.head_dim > 2 or way == "linear", "head_dim 2 has one pair alone: only linear scales it")
        self.way, self.factor, self.context = way, factor, context
        self.scale = 0.1 * math.log(factor) + 1 if way == "yarn" else 1.0

    def inv_freq(self, device):
        return WAYS[self.way](self.theta, self.head_dim, self.factor, self.context, device)

    def forward(self, positions):
        cos, sin = super().forward(positions)
        return cos * self.scale, sin * self.scale


def restore(model, way, factor, context):
    """Put the scaled Rope in, as `extend` did: for hub.load(…, restore={"project20_sparse_attention": …})."""
    return swap(model, Rope, lambda old: ScaledRope(old, way, factor, context))


def extend(model, way, factor):
    """Make a model's context `factor` times as long, in place, and note it for its folder; return it.

    No weight changes: a short training on long rows makes up for what is lost. UserError where the model has
    no plain Rope.
    """
    context = model.config.max_seq_len
    model = restore(model, way, factor, context)
    model.config = replace(model.config, max_seq_len=math.floor(context * factor))
    return hub.mark(model, "project20_sparse_attention", way=way, factor=factor, context=context)
