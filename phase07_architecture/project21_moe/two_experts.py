"""The smallest mixture: two straight lines and a gate that says who answers, on numbers one can draw.

Before: one network for all inputs. New here: a *gate* that looks at the input and divides it between networks
that need not know the whole. Neither of two straight lines can follow |x|; two of them and a gate can.

    blend    y = Σ g_i(x) · expert_i(x)     everybody computes, the gate weighs (a soft mixture)
    pick     y = g_i(x) · expert_i(x)       for the i with the largest g alone: the others need not compute

`pick` is all of this project in small: half of the work, and the gate still learns, because the winner's
output is multiplied by its weight. (Were it not, no gradient would reach the gate: choosing has none.)

Jacobs, Jordan, Nowlan, Hinton 1991 (blend); Fedus et al. 2021, 2101.03961 (one expert, times its weight).
"""

import torch
from torch import nn

from common.exercise import exercise


@exercise
def blend(gates, outputs):
    """gates (N, E), rows that sum to 1, outputs (N, E) -> (N,): each row's outputs, weighed by its gates."""
    return (gates * outputs).sum(-1)


@exercise
def pick(gates, outputs):
    """gates (N, E), outputs (N, E) -> (N,): the output of the expert with the largest gate, times that gate.

    The others count for nothing. What flows back to the gate of the winner is the winner's output.
    """
    best, winner = gates.max(-1, keepdim=True)  # (N, 1)
    return (best * outputs.gather(-1, winner)).squeeze(-1)


class Pair(nn.Module):
    """x (N,) -> (y (N,), gates (N, E)): straight lines, and a gate that is a straight line under softmax."""

    def __init__(self, experts=2, combine=blend):
        super().__init__()
        self.experts, self.gate, self.combine = nn.Linear(1, experts), nn.Linear(1, experts), combine

    def forward(self, x):
        gates = self.gate(x[:, None]).softmax(-1)  # (N, E)
        return self.combine(gates, self.experts(x[:, None])), gates


def fit(pair, x, y, steps=400, rate=0.05):
    """Train a Pair on pairs of numbers, x and y (N,); returns the mean squared error of every step."""
    optimizer, errors = torch.optim.Adam(pair.parameters(), lr=rate), []
    for _ in range(steps):
        error = (pair(x)[0] - y).square().mean()
        errors.append(error.item())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return errors
