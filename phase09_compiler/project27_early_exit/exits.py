"""Ways out: a token that is sure of what follows leaves after a few blocks, and the others are left out.

Came before: `common.model`, in which every token climbs through every block, "the" behind "at" just like the
name of a town that stood a page ago. New here: ways out between the blocks, measures of how sure a token is
there, and rules by which it leaves. The naive version stands below, `early_exit`: it computes everything and
holds still who has left. It saves nothing; it says what has to come out. `kv_fill` saves.

Seam: the contract; `model.blocks` is an open list, which we climb by ourselves.
Xin et al. 2020, 2004.12993 (DeeBERT: confidence, entropy); Zhou et al. 2020, 2006.04152 (PABEE: patience);
Schuster et al. 2022, 2207.07061 (CALM: decoders); Belrose et al. 2023, 2303.08112 (translators).
"""

import math
from functools import cached_property

import torch
from torch import nn

from common import hub
from common.errors import demand
from common.exercise import exercise
from common.model import RMSNorm, SwiGLU

# ---- the ways out ----


class Exits(nn.Module):
    """For each way out a translator of states, (C) to (C), and a probe of how sure they are, (C) to (1).

    A translator is the half of a block that needs no cache: norm and feed-forward. layers: after how many
    blocks the ways out are, rising, each from 1 to n_layer - 1.
    """

    def __init__(self, config, layers):
        super().__init__()
        layers, top, C = tuple(layers), config.n_layer, config.d_model
        fits = layers and list(layers) == sorted({*layers}) and layers[0] >= 1 and layers[-1] < top
        demand(fits, f"ways out after {list(layers)} of {top} blocks: name some, rising, from 1 to {top - 1}")
        self.layers = layers
        self.translate = nn.ModuleDict(
            {str(n): nn.Sequential(RMSNorm(C, config.norm_eps), SwiGLU(config)) for n in layers}
        )
        self.probe = nn.ModuleDict({str(n): nn.Linear(C, 1) for n in layers})
        for _, ffn in self.translate.values():
            nn.init.zeros_(ffn.w_down.weight)  # at first a state is read as if it were the last one


def restore(model, layers):
    """Give a model ways out after so many blocks, and note it for its folder; returns the model."""
    like = model.embed.weight
    model.exits = Exits(model.config, layers).to(like.device, like.dtype)
    return hub.mark(model, "project27_early_exit", layers=list(layers))


@exercise
def exit_logits(model, n, x):
    """What states x (..., C) after n blocks say of the next token, (..., V).

    At a way out, x and what its translator makes of x are added up; then the model's own norm and head. After
    all blocks there is no translator.
    """
    if n < len(model.blocks):
        x = x + model.exits.translate[str(n)](x)
    return model.head(model.norm(x))


# ---- how sure ----


class Look:
    """What a rule may look at: states x (..., C) after n blocks. Logits are made when somebody asks."""

    def __init__(self, model, n, x):
        self.model, self.n, self.x = model, n, x

    @cached_property
    def logits(self):
        """(..., V)"""
        return exit_logits(self.model, self.n, self.x)


def confidence(look):
    """The share of the likeliest token, (...), 0 to 1."""
    return look.logits.softmax(-1).amax(-1)


@exercise
def margin(look):
    """How far the likeliest token's share is above the second's, (...), 0 to 1: CALM's softmax response."""
    first, second = look.logits.softmax(-1).topk(2, dim=-1).values.unbind(-1)
    return first - second


@exercise
def certainty(look):
    """1 - entropy / ln V of the shares, (...): 1 where one token has everything, 0 where all are alike."""
    log_p = look.logits.log_softmax(-1)
    return 1 + (log_p.exp() * log_p).sum(-1) / math.log(log_p.size(-1))


def probed(look):
    """What the probe thinks the chance is that the blocks above change nothing, (...). It needs no logits."""
    return look.model.exits.probe[str(look.n)](look.x).squeeze(-1).sigmoid()


MEASURES = {"confidence": confidence, "margin": margin, "certainty": certainty, "probe": probed}

# ---- who may leave ----


class Rule:
    """Who may leave: rule(look) -> bool (...). This one lets nobody. layers: where it is asked; None: always.

    `begin` is called before the first way out of each token.
    """

    layers = None

    def begin(self):
        """Forget the token before."""

    def asked(self, model, n):
        """Is there a way out after n blocks, at which this rule is asked?"""
        return n in model.exits.layers and (self.layers is None or n in self.layers)

    def __call__(self, look):
        return torch.zeros(look.x.shape[:-1], dtype=torch.bool, device=look.x.device)


class Sure(Rule):
    """Whoever's measure reaches the threshold."""

    def __init__(self, measure, threshold, layers=None):
        demand(measure in MEASURES, f"no measure is called {measure}: there are {', '.join(MEASURES)}")
        self.measure, self.threshold, self.layers = MEASURES[measure], threshold, layers

    def __call__(self, look):
        return self.measure(look) >= self.threshold


class Patience(Rule):
    """Whoever would have said the same at so many ways out in a row, this one included."""

    def __init__(self, ways, layers=None):
        demand(ways >= 1, f"patience of {ways} ways out: at least 1")
        self.ways, self.layers, self.before = ways, layers, None

    def begin(self):
        self.before = None

    @exercise
    def __call__(self, look):
        """bool (...). `before`: (the likeliest ids, at how many ways out in a row), each (...); at first
        None.
        """
        best = look.logits.argmax(-1)
        alike = torch.ones_like(best)
        if self.before is not None:
            last, count = self.before
            alike = torch.where(best == last, count + 1, 1)
        self.before = best, alike
        return alike >= self.ways


class Together(Rule):
    """All rows of a batch leave at the way out at which the last of them may."""

    def __init__(self, rule):
        self.rule, self.layers, self.begin = rule, rule.layers, rule.begin

    def __call__(self, look):
        may = self.rule(look)
        return may.all(0, keepdim=True).expand_as(may)


# ---- the naive version: everything is computed, and who has left stands still ----


@exercise
@torch.no_grad()
def early_exit(model, tokens, rule, start=0):
    """(logits (B, T, V), left (B, T)): what each token says where it leaves, and after how many blocks.

    Tokens before `start` climb to the top, n_layer blocks, without being asked. A state that has left does
    not change any more: the blocks above make its keys and values from what it left with ("state copying"),
    and that is all that tokens which climb higher see of it.
    """
    positions = torch.arange(tokens.size(1), device=tokens.device)
    x, rope, top = model.embed(tokens, positions), model.rope(positions), len(model.blocks)
    left = torch.full_like(tokens, top)
    rule.begin()
    for n, block in enumerate(model.blocks, 1):
        y = block(x, rope=rope, positions=positions)
        x = torch.where((left < n)[..., None], x, y)  # (B, T, C)
        if n < top and rule.asked(model, n):
            leaves = rule(Look(model, n, x)) & (left == top) & (positions >= start)
            left = torch.where(leaves, n, left)
    return said(model, x, left), left


def said(model, x, left):
    """Logits (B, T, V) of states x (B, T, C), each read as at its own way out, left (B, T)."""
    logits = x.new_empty(*x.shape[:-1], model.head.out_features)
    for n in left.unique().tolist():
        logits[left == n] = exit_logits(model, n, x[left == n])
    return logits
