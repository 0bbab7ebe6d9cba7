"""The crossings between what every rank holds and what each holds a part of; each with its way back.

In a tensor-parallel block ranks have the same x, then each a part of what is inside, then again the same y.
Two crossings, and autograd has to be told what they mean backwards, for no rank sees the others' graph:

              forwards              backwards
    Copy      x as it is            sum of the ranks' gradients      Megatron's f
    Sum       sum over the ranks    dy as it is                      Megatron's g
    Gather    all-gather            reduce-scatter                   f, where ranks hold a slice of the rows
    Scatter   reduce-scatter        all-gather                       g, there
    Join      all-gather            its own slice of dy              parts of logits, side by side

Why: x is used by every rank, so what flows back to it is the sum over all of them. A sum's gradient is 1 for
each of its terms, and every rank holds the whole dy. In each line the way back is the transpose of the way
there; that of a copy is a sum, and that of a sum is a copy.

Shoeybi et al. 2019, 1909.08053; Korthikanti et al. 2022, 2205.05198 (Gather and Scatter).
"""

from torch.autograd import Function

from common.exercise import exercise


class Copy(Function):
    """x, whole on every rank -> the same, to be used by every rank's part of the weights."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @exercise
    def backward(ctx, dy):
        """dy: what this rank's part of the weights says -> (gradient of x, which is whole; None)"""
        return ctx.group.all_reduce(dy), None


class Sum(Function):
    """Each rank's share of a sum -> the sum, whole on every rank."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return group.all_reduce(x)

    @staticmethod
    @exercise
    def backward(ctx, dy):
        """dy: of the sum, the same on every rank -> (gradient of this rank's term; None)"""
        return dy, None


class Gather(Function):
    """This rank's slice along dim -> the whole, to be used by every rank's part of the weights."""

    @staticmethod
    def forward(ctx, x, group, dim):
        ctx.group, ctx.dim = group, dim
        return group.all_gather(x, dim)

    @staticmethod
    @exercise
    def backward(ctx, dy):
        """dy: of the whole, by this rank's part of the weights -> (gradient of the slice; None; None)"""
        return ctx.group.reduce_scatter(dy, ctx.dim), None, None


class Scatter(Function):
    """Each rank's share of a sum -> this rank's slice, along dim, of the sum."""

    @staticmethod
    def forward(ctx, x, group, dim):
        ctx.group, ctx.dim = group, dim
        return group.reduce_scatter(x, dim)

    @staticmethod
    @exercise
    def backward(ctx, dy):
        """dy: of this rank's slice -> (gradient of this rank's term, which is whole; None; None)"""
        return ctx.group.all_gather(dy, ctx.dim), None, None


class Join(Function):
    """This rank's slice along the last dimension -> the whole, which every rank then uses in the same way."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group, ctx.size = group, x.size(-1)
        return group.all_gather(x, -1)

    @staticmethod
    def backward(ctx, dy):
        """dy: of the whole, the same on every rank -> (gradient of the slice; None)"""
        return dy.narrow(-1, ctx.group.rank * ctx.size, ctx.size), None


class Region:
    """Into a part of the model where ranks share the work, and out of it again.

    sequence=False: outside all ranks hold all rows, and compute norms and residuals N times over.
    sequence=True: outside each holds 1/N of the T rows; as many bytes go over the wires.
    """

    def __init__(self, group, sequence: bool = False):
        self.group, self.sequence = group, sequence

    def enter(self, x):
        """(B, T, C), or (B, T/N, C) with `sequence` -> (B, T, C)"""
        return Gather.apply(x, self.group, 1) if self.sequence else Copy.apply(x, self.group)

    def leave(self, x):
        """Each rank's term (B, T, C) -> the sum (B, T, C), or its (B, T/N, C)"""
        return Scatter.apply(x, self.group, 1) if self.sequence else Sum.apply(x, self.group)
