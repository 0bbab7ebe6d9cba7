"""SparseGPT: remove a weight, and let the weights of its row that are left make up for it.

Before: Wanda chooses what goes and leaves the rest as it was. New here: inputs are correlated, so what one
weight did, its neighbours can do instead. It is GPTQ of project 14 with another question. There column j was
rounded; here w_ij becomes 0 where the mask says so, and stays where not. With the error of a row of weights

    (w - q) H (w - q)ᵀ,   H = mean of x xᵀ,   the best answer of the columns k > j is

    e = w_ij / [H⁻¹]_jj (0 where it stays)       w_ik -= e · [H⁻¹]_jk      H of the columns from j on

`column_by_column` does just that and is the text of the method. Rows of the Cholesky factor U of the whole
inverse are all those rows at once, and U_jj² is [H⁻¹]_jj, so `solve` is one factorisation and one walk. What
a weight is worth, all others making up for it, is w² / [H⁻¹]_jj (Hassibi & Stork 1993): the mask is chosen by
that when the walk reaches a block of columns, as the weights are by then. Seam: `model.blocks`.

Frantar, Alistarh 2023, 2301.00774 (ICML).
"""

import torch
from torch import Tensor

from common.errors import UserError, demand
from common.exercise import exercise
from phase05_quantization.project14_ptq.calibration import walk
from phase05_quantization.project14_ptq.gptq import damped, inverse_factor

from .magnitude import demand_share, kept, largest, n_of_m
from .wanda import Pattern

BLOCK = 128  # columns whose mask is chosen together


def column_by_column(w: Tensor, H: Tensor, mask: Tensor, damp: float = 0.01) -> Tensor:
    """The method as it reads, for a mask that is given: w, mask (out, in), H (in, in) -> (out, in), float64.

    The inverse is that of the columns from j on, which is made anew at each step.
    """
    w, H = w.double().clone(), damped(H, damp)
    for j in range(w.size(1)):
        inverse = H[j:, j:].inverse()
        gone = torch.where(mask[:, j], 0, w[:, j])  # (out,)
        w[:, j:] -= (gone / inverse[0, 0])[:, None] * inverse[0]  # also w_j, which becomes 0
    return w * mask


@exercise
def saliency(w: Tensor, U: Tensor) -> Tensor:
    """What each weight is worth: w² / [H⁻¹]_jj: w (out, n), U (n, n), upper triangular, -> (out, n).

    [H⁻¹]_jj is that of the columns from j on, so the square of U's own diagonal.
    """
    return (w / U.diagonal()).square()


@exercise
def solve(w: Tensor, U: Tensor, sparsity: float, pattern: Pattern = None, block: int = BLOCK) -> Tensor:
    """w (out, in) and U (in, in) with UᵀU = H⁻¹ -> what is left of w, (out, in) float32, zeros in it.

    Columns from left to right. When column j is
    - the first of a block, and there is no pattern: of all weights of the block the share of least saliency
      goes, whichever rows they are in;
    - the first of m neighbours, with a pattern (n, m): in each row n of the m stay, those of most saliency;
    then the error (w_j - what stays of it) / U[j, j], and columns k > j lose error · U[j, k]: those of the
    same block at once, all others when the block is done, by one product. UserError: see kept and n_of_m.
    """
    w, U = w.float().clone(), U.float()
    mask = torch.ones_like(w, dtype=torch.bool)
    m = pattern[1] if pattern else block
    demand(block % m == 0, f"blocks of {block} columns do not hold whole groups of {m}")
    for start in range(0, w.size(1), block):
        stop = min(start + block, w.size(1))
        errors = torch.zeros_like(w[:, start:stop])
        for j in range(start, stop):
            if (j - start) % m == 0:
                at = slice(j, min(j + m, stop))
                scores = saliency(w[:, at], U[at, at])
                share = largest(scores.flatten(), kept(scores.numel(), sparsity)) if not pattern else None
                mask[:, at] = n_of_m(scores, *pattern) if pattern else share.view_as(scores)
            errors[:, j - start] = torch.where(mask[:, j], 0, w[:, j]) / U[j, j]
            w[:, j:stop] -= errors[:, j - start, None] * U[j, j:stop]
        w[:, stop:] -= errors @ U[start:stop, stop:]
    return w * mask


@torch.no_grad()
def apply(model, batches, sparsity: float = 0.5, pattern: Pattern = None, damp: float = 0.01):
    """Prune the matrices of all blocks, on batches of tokens (1, T); the model is changed and returned."""
    demand_share(sparsity)

    def visit(block, names, moments):
        try:
            U = inverse_factor(moments.hessian, damp)
            for name in names:
                weight = block.get_submodule(name).weight
                weight.copy_(solve(weight, U, sparsity, pattern))
        except UserError as error:
            raise UserError(f"{names[0]}: {error}") from None

    return walk(model, batches, visit)
