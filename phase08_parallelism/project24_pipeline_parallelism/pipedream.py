"""A pipeline that is never emptied: each stage makes its update as soon as a gradient is there.

Before: at the end of a batch all ranks waited until the pipeline was empty, made one update and filled it
again. New here: no end. 1F1B goes on for ever, every backward is followed by an update of that stage, and the
bubble is only that of the very first filling. The price: when the gradient of a micro-batch comes back to a
stage, its weights are no longer those with which it went forward. Two things follow.

*Stashing.* Backwards must use the weights of forwards, or what it computes is the gradient of nothing. So a
stage keeps a copy of its weights for each micro-batch under way: p - r of them, as many as it has
micro-batches. This makes the gradient right, for weights that are some updates old.

*Staleness.* The update itself goes to newer weights. Stage s of p is p - 1 - s updates ahead of the gradient:

    w_s[t + 1] = w_s[t] - lr · ∂f/∂w_s (w_0[t - (p - 1)], …, w_s[t - (p - 1 - s)], …, w_(p-1)[t])

With small steps that hardly matters; with large ones it does. Here each micro-batch is a batch of its own.

Harlap et al. 2018, 1806.03377; Narayanan et al. 2019, "PipeDream", SOSP.
"""

import torch
from torch.func import functional_call

from common.errors import demand
from common.exercise import exercise

from .pipeline import Pipeline


class PipeDream(Pipeline):
    """One stage on each rank; `step` goes through a stream of micro-batches, with an update after each.

    optimizer: of this rank's parameters. orders: 1F1B's. Returns the sum of the losses, each of which is that
    of its own micro-batch, and all of them are in `losses`.
    """

    def __init__(self, stages, wire, objective, optimizer):
        super().__init__(stages, wire, objective)
        demand(len(stages) == 1, "PipeDream has one stage on each rank")
        demand(not self.part.config.tie_embeddings, "the two ends of a tied model would make updates of "
               "their own: call untie(model) before it is cut")  # fmt: skip
        self.optimizer, self.losses = optimizer, []

    def step(self, batch, orders):
        self.losses = []
        return self.run(batch, orders)

    @property
    def module(self):
        """What runs here: the stage, at the last one within its loss."""
        (stage,) = self.stages.values()
        return self.objective if stage.last else stage

    @exercise
    def forward(self, number, micro, x):
        """As Pipeline's, but through a copy of the weights as they are now: {name: tensor that requires a
        gradient}, by `functional_call`; (x, y, copy) is kept. The loss is this micro-batch's own, not a
        share; it is put into self.losses and added to self.total."""
        stage, module = self.stages[number], self.module
        stash = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
        x = self.tokens[micro] if stage.first else x.requires_grad_()
        given = (x, self.targets[micro]) if stage.last else x
        y = functional_call(module, stash, (given,))
        if stage.last:
            self.losses.append(y.item())
            self.total = self.total + y.detach()
        self.kept[number, micro] = x, y, stash
        return y.detach()

    @exercise
    def backward(self, number, micro, dy):
        """The gradient by the weights of this micro-batch's forward pass; then an update of the weights as
        they are now, and no gradient is left. Returns the gradient of x, None at the first stage."""
        x, y, stash = self.kept.pop((number, micro))
        torch.autograd.backward(y, dy)
        for name, p in self.module.named_parameters():
            p.grad = stash[name].grad
        self.optimizer.step()
        self.optimizer.zero_grad()
        return x.grad


def updates_behind(p, stage):
    """How many updates a stage makes between a micro-batch's forward and its backward pass."""
    return p - 1 - stage
