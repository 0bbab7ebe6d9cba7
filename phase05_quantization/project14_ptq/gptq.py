"""GPTQ: round one column after another, and let the columns that are still floats make up for each error.

Before: round to nearest takes each weight by itself. New here: the error that counts is (w - q) H (w - q)ᵀ,
and inputs are correlated, so what one column does wrong, others can put right. If column j of a row becomes
q_j, the other weights that are still free have a best answer, in closed form (the optimal brain surgeon):

    e = (w_j - q_j) / [H⁻¹]_jj        w -= e · [H⁻¹]_j,:        H of the columns that are still free

H⁻¹ changes with every column that is fixed. `column_by_column` does just that and is the text of the method.
The rows of the Cholesky factor of the whole H⁻¹ are all those rows at once: `gptq` needs one factorisation,
and is otherwise a triangular solve that rounds on its way. Columns are taken in blocks, so that what is far
to the right is updated by one product a block.

The rounding is greedy: nothing promises that a row comes out better than rounded to nearest. Nearly all do;
the few that do not keep those codes. Seam: `swap`, block by block, while `calibration.walk` goes through.

Frantar, Ashkboos, Hoefler, Alistarh 2023, 2210.17323 (ICLR); Hassibi & Stork 1993 (NIPS).
"""

import torch
from torch import Tensor

from common.errors import UserError, demand
from common.exercise import exercise

from .calibration import layer_error, walk
from .rtn import Grid, Group, QuantLinear, demand_finite, dequantize, grid_of, qmax, quantize

BLOCK = 128  # columns between two updates of all that is to the right


def columns(grid: Grid, at) -> Grid:
    """The part of a grid that holds for groups `at`, a slice or a list."""
    return Grid(grid.scale[:, at], None if grid.zero is None else grid.zero[:, at])


def damped(H: Tensor, damp: float) -> Tensor:
    """H in float64 with `damp` of its mean diagonal added, so that it can be inverted. (in, in)

    An input that was never anything but 0 has no say: 1 on its diagonal.
    """
    H = H.double().clone()
    diagonal = H.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damp * diagonal.mean()
    return H


def column_by_column(w: Tensor, H: Tensor, grid: Grid, bits: int, damp: float = 0.01) -> Tensor:
    """The method as it reads: w (out, in), H (in, in), a grid for all of w -> codes (out, in), int8."""
    w, inverse, size = w.double().clone(), damped(H, damp).inverse(), w.size(1) // grid.scale.size(1)
    codes = torch.zeros_like(w, dtype=torch.int8)
    for j in range(w.size(1)):
        part = columns(grid, [min(j // size, grid.scale.size(1) - 1)])
        codes[:, j : j + 1] = quantize(w[:, j : j + 1], part, bits)
        q = dequantize(codes[:, j : j + 1], part, w.dtype)[:, 0]
        w -= ((w[:, j] - q) / inverse[j, j])[:, None] * inverse[j]  # also w_j, which becomes q_j
        inverse = inverse - inverse[:, j : j + 1] * inverse[j] / inverse[j, j]  # one free column less
    return codes


@exercise
def inverse_factor(H: Tensor, damp: float = 0.01) -> Tensor:
    """The upper triangular U (in, in), float64, with UᵀU = (damped H)⁻¹. UserError where there is none.

    Row j of U, divided by U[j, j], is row j of the inverse over the columns from j on, divided by its first
    number: what `column_by_column` has in hand when it comes to column j.
    """
    lower, failed = torch.linalg.cholesky_ex(damped(H, damp))
    demand(not failed, f"the inputs' moments are not positive with damp {damp}: raise it, or add more text")
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)


@exercise
def solve(w: Tensor, U: Tensor, grid: Grid, bits: int, group_at: Tensor, fresh=None) -> tuple[Tensor, Grid]:
    """Round the columns of w (out, in) from left to right, passing the errors on -> (codes (out, in), grid).

    U (in, in): inverse_factor's; group_at (in,): the group of each column in the grid. For each column j
    - its code is `quantize` of what the errors so far have made of it;
    - its error is (w_j - q_j) / U[j, j], and columns k > j lose error · U[j, k]: those of the same block of
      BLOCK columns at once, all others when the block is done, by one product.
    fresh(w's columns of a block) -> Grid, where the grid of a group is only made when its first column is
    reached: then a block is a group, and what fresh gives replaces the grid's.
    """
    w, U, codes = w.float().clone(), U.float(), torch.zeros_like(w, dtype=torch.int8)
    step = int((group_at == 0).sum()) if fresh else BLOCK
    for start in range(0, w.size(1), step):
        stop = min(start + step, w.size(1))
        if fresh:
            made = fresh(w[:, start:stop])
            for old, new in zip(grid, made, strict=True):
                if old is not None:
                    old[:, start // step] = new[:, 0]
        errors = torch.zeros_like(w[:, start:stop])
        for j in range(start, stop):
            part = columns(grid, [int(group_at[j])])
            codes[:, j : j + 1] = quantize(w[:, j : j + 1], part, bits)
            q = dequantize(codes[:, j : j + 1], part)[:, 0]
            errors[:, j - start] = (w[:, j] - q) / U[j, j]
            w[:, j + 1 : stop] -= errors[:, j - start, None] * U[j, j + 1 : stop]
        w[:, stop:] -= errors @ U[start:stop, stop:]
    return codes, grid


@exercise
def better_rows(w, H, mine: tuple[Tensor, Grid], nearest: tuple[Tensor, Grid]) -> tuple[Tensor, Grid]:
    """Row by row the codes and steps, of two (codes, grid) for w (out, in), that have the lower layer_error.

    A tie goes to `nearest`. A grid for all of the matrix, (1, 1), is the same in both.
    """
    errors = [layer_error(w.double(), dequantize(*one), H) for one in (mine, nearest)]
    keep = (errors[0] < errors[1])[:, None]  # (out, 1)
    codes = torch.where(keep, mine[0], nearest[0])
    if len(mine[1].scale) < len(w):
        return codes, nearest[1]
    parts = zip(mine[1], nearest[1], strict=True)
    return codes, Grid(*(one if one is None else torch.where(keep, one, other) for one, other in parts))


def gptq(w: Tensor, H: Tensor, bits: int, group: Group = None, symmetric=True, *, act_order=False, damp=0.01,
         keep_better=True) -> tuple[Tensor, Grid]:  # fmt: skip
    """w (out, in) and the mean H of x xᵀ (in, in) -> (codes (out, in) int8, grid).

    act_order: begin with the inputs that matter most (the largest diagonal of H), while many columns are left
    to make up for them; grids are then those of the weights as they were. Otherwise a group gets its grid
    when its first column is reached. keep_better=False leaves rows that came out worse than nearest.
    UserError: as grid_of, and moments that cannot be inverted.
    """
    qmax(bits), demand_finite(w)
    nearest = grid_of(w, bits, group, symmetric)
    G = nearest.scale.size(1)
    place = torch.arange(w.size(1), device=w.device)
    group_at = place // (w.size(1) // G)
    order = H.diagonal().argsort(descending=True) if act_order else place
    start = Grid(*(x if x is None else x.clone() for x in nearest))
    fresh = None if act_order or G == 1 else lambda part: grid_of(part, bits, None, symmetric)
    U = inverse_factor(H[order][:, order], damp)
    codes, grid = solve(w[:, order], U, start, bits, group_at[order], fresh)
    found = codes[:, order.argsort()], grid
    return better_rows(w, H, found, (quantize(w, nearest, bits), nearest)) if keep_better else found


def apply(model, batches, bits=4, group: Group = None, symmetric=True, *, act_order=True, damp=0.01):
    """GPTQ for all matrices of the blocks, on batches of tokens (1, T); the model is changed and returned."""

    def visit(block, names, moments):
        for name in names:
            old = block.get_submodule(name)
            try:
                codes, grid = gptq(old.weight.detach(), moments.hessian, bits, group, symmetric,
                                   act_order=act_order, damp=damp)  # fmt: skip
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
            block.set_submodule(name, QuantLinear.from_codes(codes, grid, bits, old.bias).train(old.training))

    return walk(model, batches, visit)
