"""All experts' products in one call: weights of all experts in one tensor, rows of all experts in one matrix.

Before: `moe.py`, where each expert is called for its rows: 3 E small products, and a number of rows that the
processor has to know before it can start one. On a GPU that means to wait, E times. New here: a *grouped*
product, for which the counts stay where they are.

    h (R, C), by expert      [ rows of 0 | rows of 1 | … ]      ends (E,): where each expert's rows end
    w (E, F, C)              each expert's own matrix
    product(h, w, ends)      (R, F): row r times the matrix of the expert to which it belongs

`by_slices` says what a product is, `by_torch` calls torch's own, `triton_grouped.product` is ours.
Seam: `stack(model)` is a second surgery, on what moe.py made. Gale et al. 2022, 2211.15841 (MegaBlocks).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from common.exercise import exercise

from .moe import layers, sorted_segments


@exercise
def by_slices(h, w, ends):
    """h (R, C) by expert, w (E, F, C), ends (E,) -> (R, F): each expert's stretch of rows times its matrix.

    Rows from ends[-1] on belong to nobody: zeros. The plain version, and the oracle.
    """
    starts = [0, *ends.tolist()]
    parts = [F.linear(h[a:b], m) for a, b, m in zip(starts, starts[1:], w, strict=False)]
    return F.pad(torch.cat(parts), (0, 0, 0, len(h) - starts[-1]))


def by_torch(h, w, ends):
    """The same by torch's grouped product, which wants rows of whole 16 bytes, and none of nobody."""
    return torch._grouped_mm(h, w.transpose(1, 2), offs=ends.to(torch.int32))


class Stacked(nn.Module):
    """Feed-forwards of one size as three tensors: w_gate and w_up (E, F, C), w_down (E, C, F)."""

    def __init__(self, experts, product=by_slices):
        super().__init__()
        self.product = product
        for name in ("w_gate", "w_up", "w_down"):
            weights = [getattr(expert, name).weight.detach() for expert in experts]
            setattr(self, name, nn.Parameter(torch.stack(weights)))

    def __len__(self):
        return len(self.w_gate)

    def forward(self, h, counts):
        """h (R, C) by expert, counts (E,) -> (R, C)."""
        ends = counts.cumsum(0)  # (E,)
        inner = F.silu(self.product(h, self.w_gate, ends)) * self.product(h, self.w_up, ends)  # (R, F)
        return self.product(inner, self.w_down, ends)


def by_counts(h, counts, experts):
    """For `sorted_segments`: experts that are stacked take all rows at once."""
    return experts(h, counts)


def stack(model, product=by_slices):
    """Have the mixtures of a model compute by grouped products, in place; return the model.

    The weights are copies under other names: for use and for new trainings, not for checkpoints of old ones.
    """
    for layer in layers(model):
        layer.experts = Stacked(layer.experts, product)
        layer.run = partial(sorted_segments, compute=by_counts)
    return model
