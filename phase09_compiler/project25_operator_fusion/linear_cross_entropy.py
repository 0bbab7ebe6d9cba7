"""The head and the loss behind it in chunks: the logits of a batch never exist at once.

Before: logits (N, V) are written by the head, and by the loss, and their gradient is as large again: for
4,096 tokens and 10,000 ids three times 164 MB, where the model itself is 27. New here: so many rows at a
time, and everything that anybody wants of them (their losses, and what flows back to the hidden states and to
the weight) is taken at once, on the way forward. Then they are forgotten. The way back only multiplies.

Hsu et al. 2024, 2410.10989 (Liger); Wijmans et al. 2024, 2411.09009 (Cut Cross-Entropy, which goes on)."""

import torch
from torch.autograd.function import once_differentiable

from common.errors import demand
from common.exercise import exercise

from . import chains

ROWS = 256  # tokens whose logits exist at one time


@exercise
def chunks(hidden, weight, targets, kernels, rows=ROWS):
    """hidden (N, C), weight (V, C), targets (N,) -> (loss, dhidden (N, C), dweight (V, C)).

    The mean loss over targets not below 0, and its gradients. kernels: `kernels.rows(logits, targets)` gives
    (loss, lse), each (n,); `kernels.gradient_(logits, targets, lse, scale)` puts scale times the gradient of
    each row's loss in place of the logits. At no time are there logits of more than `rows` tokens.
    """
    scale = 1 / chains.counted(targets).to(torch.promote_types(hidden.dtype, torch.float32))
    total, dhidden, dweight = 0.0, torch.empty_like(hidden), torch.zeros_like(weight)
    for h, t, back in zip(hidden.split(rows), targets.split(rows), dhidden.split(rows), strict=True):
        logits = h @ weight.T  # (n, V)
        loss, lse = kernels.rows(logits, t)
        total = total + loss.sum()
        dlogits = kernels.gradient_(logits, t, lse, scale)
        torch.mm(dlogits, weight, out=back)
        dweight.addmm_(dlogits.T, h)
    return total * scale, dhidden, dweight


class LinearCrossEntropy(torch.autograd.Function):
    """(hidden, weight, targets, kernels, rows) -> loss"""

    @staticmethod
    def forward(ctx, hidden, weight, targets, kernels, rows):
        loss, *gradients = chunks(hidden, weight, targets, kernels, rows)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        dhidden, dweight = ctx.saved_tensors
        return dhidden * dloss, dweight * dloss, None, None, None


def linear_cross_entropy(hidden, weight, targets, kernels=chains.KERNELS, rows=ROWS):
    """cross_entropy(hidden @ weight.T, targets): hidden (N, C), weight (V, C), targets (N,) -> a number.

    UserError for other shapes, or no rows to a chunk.
    """
    fits = hidden.dim() == 2 and targets.shape == hidden.shape[:1] and weight.shape[1:] == hidden.shape[1:]
    demand(fits, f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)}, "
           f"targets {tuple(targets.shape)}: give "
           "(N, C), (V, C) and (N,)")  # fmt: skip
    demand(rows >= 1, f"chunks of {rows} rows: at least 1")
    if not torch.is_grad_enabled():
        pairs = zip(hidden.split(rows), targets.split(rows), strict=True)
        return sum(kernels.rows(h @ weight.T, t)[0].sum() for h, t in pairs) / chains.counted(targets)
    return LinearCrossEntropy.apply(hidden, weight, targets, kernels, rows)
