"""What was tried where Wanda does no better than magnitude: over the matrix, fitted anew, in other units.

Wanda was made for models in which a few inputs are far louder than the rest. Where all are about as loud, it
is magnitude within rows; `in_other_units` makes a model whose inputs differ and that computes what it did.
"""

import copy

import torch

from phase05_quantization.project14_ptq import awq
from phase05_quantization.project14_ptq.calibration import walk
from phase05_quantization.project14_ptq.gptq import damped

from . import sparsegpt
from .magnitude import kept, largest
from .wanda import mask_of, worth


@torch.no_grad()
def over_the_matrix(model, batches, sparsity, pattern=None):
    """Wanda's worth, compared within a matrix and not within its rows."""

    def visit(block, names, moments):
        for name in names:
            weight = block.get_submodule(name).weight
            scores = worth(weight, moments)
            weight.mul_(largest(scores.flatten(), kept(scores.numel(), sparsity)).view_as(scores))

    return walk(model, batches, visit)


def fit_rows(w, H, mask, rows=32):
    """The best weights where mask (out, in) is True, row by row, in least squares: (out, in). All rows keep
    equally many, `rows` of them are solved at a time."""
    at = mask.nonzero()[:, 1].view(len(w), -1)  # (out, k)
    target, left = (w.double() @ H).gather(1, at), torch.zeros_like(w)
    for start in range(0, len(w), rows):
        here = at[start : start + rows]
        own = H[here[:, :, None], here[:, None, :]]  # (rows, k, k)
        found = torch.linalg.solve(own, target[start : start + rows])
        left[start : start + rows].scatter_(1, here, found.to(w.dtype))
    return left


def fitted(choose):
    """apply(model, batches, sparsity, pattern): a mask for each matrix, then the best weights for it.

    choose(w, moments, sparsity, pattern) -> mask (out, in), as many True in each row.
    """

    @torch.no_grad()
    def apply(model, batches, sparsity, pattern=None):
        def visit(block, names, moments):
            H = damped(moments.hessian, 1e-3)
            for name in names:
                weight = block.get_submodule(name).weight
                weight.copy_(fit_rows(weight, H, choose(weight, moments, sparsity, pattern)))

        return walk(model, batches, visit)

    return apply


def by_wanda(w, moments, sparsity, pattern):
    return mask_of(worth(w, moments), sparsity, pattern)


METHODS = {"wanda over the matrix": over_the_matrix, "wanda, fitted": fitted(by_wanda),
           "sparsegpt": sparsegpt.apply}  # fmt: skip


@torch.no_grad()
def in_other_units(model, spread=1.0, seed=0):
    """A copy whose inputs differ in size by e^spread and that computes what it did: each norm gives some of
    its outputs larger and some smaller, and the columns that read them are as much smaller or larger."""
    model, draw = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for maker, readers in ((block.norm_attn, (block.attn.wq, block.attn.wk, block.attn.wv)),
                               (block.norm_ffn, (block.ffn.w_gate, block.ffn.w_up))):  # fmt: skip
            awq.fold(maker, readers, (spread * torch.randn(model.config.d_model, generator=draw)).exp())
    return model
