"""Training for ways out: blocks are left out at random, and every way out is asked for what the top says.

Came before: `CausalLM` of project 3, which asks at the top alone; what the blocks in between hold is their
own business, and the head cannot read it. New here: layer dropout, with which no block may rely on all those
above it, and a loss for the ways out. The model stays a plain GPT: at the top it is used as before.

Seam: the contract, `model.blocks`; the trainer gets it as an objective.
Elhoushi et al. 2024, 2404.16710 (LayerSkip: layer dropout, early exit loss, one way out at a time); Zhang et
al. 2019, 1905.08094 (the top as the teacher of the ways out).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from common.exercise import exercise
from phase01_foundation.project03_pretrain.objectives import token_loss

from .exits import exit_logits


@exercise
def drop_rates(n_layer, most):
    """With which chance each block is left out in training: n_layer numbers, from 0 for the first to `most`.

    They rise exponentially: block i, counted from 0, has most * (exp(i ln 2 / (n_layer - 1)) - 1). A single
    block is never left out.
    """
    return [most * (math.exp(i * math.log(2) / max(1, n_layer - 1)) - 1) for i in range(n_layer)]


@exercise
def soft_loss(logits, teacher):
    """Mean surprise in nats at tokens drawn from the teacher's shares: both logits (..., V) -> scalar.

    The teacher is not trained by this: no gradient flows into its logits.
    """
    return -(teacher.detach().softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


class ExitLoss(nn.Module):
    """(inputs, targets), each (B, T), target t being the token after input t -> loss.

    model: with `exits`. weight: of a way out beside the top, which counts 1. most: the chance with which the
    last block is left out for a row. A frozen model may be given: then its ways out learn alone.
    """

    def __init__(self, model, weight=1.0, most=0.1):
        super().__init__()
        self.model, self.weight, self.rates = model, weight, drop_rates(len(model.blocks), most)

    def states(self, inputs):
        """{n: states (B, T, C) after n blocks}, for each way out and the top; in training, with dropout."""
        model, positions = self.model, torch.arange(inputs.size(1), device=inputs.device)
        x, rope, found = model.embed(inputs, positions), model.rope(positions), {}
        for n, (block, rate) in enumerate(zip(model.blocks, self.rates, strict=True), 1):
            y = block(x, rope=rope, positions=positions)
            if self.training and rate:
                stays = torch.rand(len(inputs), 1, 1).to(x.device) >= rate  # (B, 1, 1)
                y = torch.where(stays, y, x)
            x = y
            if n in model.exits.layers or n == len(model.blocks):
                found[n] = x
        return found

    @exercise
    def forward(self, batch):
        """(top + weight * way out) / (1 + weight), and what the probe is surprised at.

        top: `token_loss` of the targets. way out: `soft_loss` of one, drawn for each batch with
        torch.randint(len(layers), ()), with the top for a teacher. The probe of that way out is asked whether
        its likeliest token is the top's: binary cross-entropy, the mean. It sees states through which no
        gradient flows, so that it costs the model nothing.
        """
        inputs, targets = batch
        model, layers = self.model, self.model.exits.layers
        states = self.states(inputs)
        n = layers[int(torch.randint(len(layers), ()))]
        top = exit_logits(model, len(model.blocks), states[len(model.blocks)])  # (B, T, V)
        out = exit_logits(model, n, states[n])
        right = (out.argmax(-1) == top.argmax(-1)).float()  # (B, T)
        sure = model.exits.probe[str(n)](states[n].detach()).squeeze(-1)
        loss = (token_loss(top, targets) + self.weight * soft_loss(out, top)) / (1 + self.weight)
        return loss + F.binary_cross_entropy_with_logits(sure.float(), right)
