"""Experts into a model: from the start, or out of a trained one; and a loss that keeps them all busy.

Before: `moe.py`, one layer. New here: a whole model. `apply` puts a mixture in the place of every
feed-forward and draws its weights; `upcycle` makes every expert a copy of the feed-forward that was there, so
that what was learnt is not learnt again. Seam: the surgery, `swap`. Experts are blocks.i.ffn.experts.e.w_up
and so on, each a matrix, so that whatever handles matrices (Muon, LoRA, quantisation) handles experts too.

Komatsuzaki et al. 2022, 2212.05055 (upcycling); Fedus et al. 2021, 2101.03961 (the loss).
"""

import copy
from dataclasses import asdict, replace

from torch import nn

from common import hub
from common.errors import demand
from common.exercise import exercise
from common.model import SwiGLU, swap

from .moe import MoE, MoEConfig, layers


def width(old, config):
    """Numbers inside an expert that takes the place of `old`. UserError where k does not divide them."""
    inner = old.w_gate.out_features
    fits = config.d_ff or inner % config.k == 0
    demand(fits, f"{inner} numbers inside do not divide among k = {config.k} experts: say d_ff")
    return config.d_ff or inner // config.k


def shaped(old, config):
    """A MoE for a feed-forward, with its device and dtype, its weights yet to come."""
    made = MoE(old.w_gate.in_features, width(old, config), config).to(old.w_gate.weight)
    made.router.bias.zero_()
    made.router.load.zero_()
    return made


def note(model, config):
    return hub.mark(model, "project21_moe", **asdict(config))


def apply(model, config, where=lambda name: True):
    """Put a mixture in the place of every feed-forward and draw all weights anew; return the model.

    k experts together cost what the feed-forward did, unless config.d_ff says else.
    """
    swap(model, SwiGLU, lambda old: shaped(old, config), where)
    model.init_weights()
    return note(model, config)


@exercise
def experts_of(old, config):
    """The E feed-forwards that `upcycle` begins with: whole copies of the old one, each with weights of its
    own, which share nothing and can part."""
    return [copy.deepcopy(old) for _ in range(config.experts)]


def upcycle(model, config, where=lambda name: True):
    """Turn a trained model into a mixture whose every expert is the old feed-forward; return the model.

    The function is the same at first, as weights add up to 1: the new routers, drawn at random, have nothing
    to get wrong. A token costs k times the old feed-forward. UserError where the function would change.
    """
    alike = config.renormalise and config.scale == 1 and not config.shared and config.d_ff is None
    demand(alike, "upcycling begins with the old function: renormalise, scale 1, no shared expert, no d_ff")

    def make(old):
        mixture = MoE(old.w_gate.in_features, 1, config).to(old.w_gate.weight)
        mixture.experts = nn.ModuleList(experts_of(old, config))
        nn.init.normal_(mixture.router.gate.weight, std=0.02)
        return mixture

    inner = model.config.d_ff
    swap(model, SwiGLU, make, where)
    return note(model, replace(config, d_ff=inner))


def restore(model, **args):
    """The shapes of a folder so marked, in every block."""
    config = MoEConfig(**args)
    return swap(model, SwiGLU, lambda old: shaped(old, config))


class Balanced(nn.Module):
    """batch -> loss: an objective's, and in training what the routers of its model add.

    Biases move at the beginning of a training forward, by the load of the one before, so that a backward
    pass, which may compute a block again, finds the choices as they were.
    """

    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def forward(self, batch):
        routers = [layer.router for layer in layers(self.objective)]
        if not self.training:
            return self.objective(batch)
        for router in routers:
            router.settle()
        loss = self.objective(batch)
        return loss + sum(router.loss() for router in routers)


def active(model):
    """(weights in all, weights that a token meets): of the experts, k in E."""
    every = sum(p.numel() for p in model.parameters())
    idle = 0
    for layer in layers(model):
        share = 1 - layer.config.k / layer.config.experts
        idle += share * sum(p.numel() for p in layer.experts.parameters())
    return every, round(every - idle)
