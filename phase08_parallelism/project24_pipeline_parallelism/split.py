"""A backward pass in two parts: what the stage before waits for, and what nobody waits for.

Before: `backward` computed the gradients of inputs and of weights together. New here: of a layer y = x Wᵀ

    dx = dy W          the layer before it needs this, and the stage before this one          I
    dW = dyᵀ x         needs nothing but x and dy, and only the optimiser wants it            W

so dW can be computed at any time before the update. `SplitLinear` computes dx at once and writes down what dW
will need; `weight_part` does it when there is nothing better to do. Each is as many multiplications as the
forward pass. Seam: the surgery, through `swap`.

Gradients of norms, biases and the table are computed with dx: they are small.

Qi et al. 2023, 2401.10241, section 2.
"""

import torch.nn.functional as F
from torch import nn
from torch.autograd import Function

from common.exercise import exercise
from common.model import swap


class Split(Function):
    """(x (..., in), weight (out, in), notes: a list) -> x weightᵀ, (..., out)."""

    @staticmethod
    def forward(ctx, x, weight, notes):
        ctx.save_for_backward(x, weight)
        ctx.notes = notes
        return F.linear(x, weight)

    @staticmethod
    @exercise
    def backward(ctx, dy):
        """dy (..., out) -> (dx (..., in), None, None). What dW needs goes into ctx.notes: (weight, x, dy)."""
        x, weight = ctx.saved_tensors
        ctx.notes.append((weight, x, dy))
        return dy @ weight, None, None


class SplitLinear(nn.Linear):
    """A Linear, its weight under the same name, whose weight gradient is put off."""

    def __init__(self, old, notes):
        nn.Module.__init__(self)
        self.weight, self.bias, self.notes = old.weight, old.bias, notes
        self.out_features, self.in_features = old.weight.shape

    def forward(self, x):
        y = Split.apply(x, self.weight, self.notes)
        return y if self.bias is None else y + self.bias


def split(module):
    """Every Linear of a module puts its weight gradient off; returns the list into which they all write."""
    notes = []
    swap(module, nn.Linear, lambda old: SplitLinear(old, notes))
    return notes


@exercise
def weight_part(notes):
    """Add the gradients that were put off to the weights' .grad, where there may be none yet, and empty the
    list: dW = dyᵀ x, summed over all rows and tokens."""
    for weight, x, dy in notes:
        x, dy = x.flatten(0, -2), dy.flatten(0, -2)  # (n, in), (n, out)
        if weight.grad is None:
            weight.grad = dy.T @ x  # (out, in)
        else:
            weight.grad.addmm_(dy.T, x)
    notes.clear()
