"""Wanda: a weight is worth its magnitude times the size of what it is multiplied with.

Before: `magnitude.py` looks at weights alone. But a small weight on a loud input says more than a large one
on an input that is nearly always 0. For one weight, alone, the output loses w_ij x_j: over some texts

    worth of w_ij = |w_ij| · ‖x_j‖        ‖x_j‖: length of input j over all tokens

and weights are compared within a row, those of one output, so that no output is left with nothing. That is
all: no gradient, no inverse, no training, one pass over some texts. The blocks are pruned in order, each with
the inputs that the pruned blocks before it give (`calibration.walk` of project 14). Seam: `model.blocks`.

Sun, Liu, Bair, Kolter 2023, 2306.11695 (ICLR 2024).
"""

import torch
from torch import Tensor

from common.errors import UserError
from common.exercise import exercise
from phase05_quantization.project14_ptq.calibration import Moments, walk

from .magnitude import demand_share, kept, largest, n_of_m

Pattern = tuple[int, int] | None  # (n, m): n of m neighbours stay; None: no pattern, a share goes


@exercise
def worth(w: Tensor, moments: Moments) -> Tensor:
    """The score of each weight: w (out, in) and the moments of its inputs -> (out, in), never negative.

    The length of input j over all tokens, but for a factor that all inputs share, is the root of
    `moments.hessian`'s diagonal.
    """
    return w.abs() * moments.hessian.diagonal().sqrt().to(w.dtype)


@exercise
def mask_of(scores: Tensor, sparsity: float, pattern: Pattern = None) -> Tensor:
    """scores (out, in) -> mask (out, in): each row by itself loses its share; with a pattern n of m stay."""
    if pattern:
        return n_of_m(scores, *pattern)
    return largest(scores, kept(scores.size(-1), sparsity))


@torch.no_grad()
def apply(model, batches, sparsity: float = 0.5, pattern: Pattern = None):
    """Prune the matrices of all blocks, on batches of tokens (1, T); the model is changed and returned."""
    demand_share(sparsity)

    def visit(block, names, moments):
        for name in names:
            weight = block.get_submodule(name).weight
            try:
                weight.mul_(mask_of(worth(weight, moments), sparsity, pattern))
            except UserError as error:
                raise UserError(f"{name}: {error}") from None

    return walk(model, batches, visit)
