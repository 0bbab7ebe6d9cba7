"""Calibration: a few texts, read by the model block by block, to see what each matrix is multiplied with.

Before: `rtn.py` looks at the weights alone. New here: an error in a weight matters as much as the numbers
that it is multiplied with are large. For a linear layer with inputs x, and codes that stand for q, not w:

    error = mean of |(w - q) x|² = sum over rows of (w - q) H (w - q)ᵀ,    H = mean of x xᵀ, (in, in)

So of all the text only H has to be kept (and for `awq.py` the mean of |x|). The blocks are gone through in
order, each with the inputs that the blocks before it give as they are then, already quantised: what was lost
there is in the data here. Seam: `model.blocks` is an open list. Frantar et al. 2023, 2210.17323, section 3.
"""

import torch
from torch import Tensor

from common.errors import demand
from common.exercise import exercise

# Matrices of a block that read one and the same input, in the order in which the block uses them.
STAGES = (("attn.wq", "attn.wk", "attn.wv"), ("attn.wo",), ("ffn.w_gate", "ffn.w_up"), ("ffn.w_down",))


class Moments:
    """What is kept of all inputs of a layer: n of them, sums of x xᵀ (in, in) and of |x| (in,), float32."""

    def __init__(self, width: int, device="cpu"):
        self.n, self.squares = 0, torch.zeros(width, width, device=device)
        self.sizes = torch.zeros(width, device=device)

    @exercise
    def add(self, x: Tensor) -> None:
        """Count inputs x (..., in), of any type, in. UserError where they are not finite."""
        x = x.flatten(0, -2).float()  # (n, in)
        demand(x.isfinite().all(), "the calibration texts make inputs that are NaN or infinite: which model?")
        self.n += len(x)
        self.squares += x.T @ x
        self.sizes += x.abs().sum(0)

    @property
    def hessian(self) -> Tensor:
        """H (in, in), the mean of x xᵀ. Half the second derivative of the error by a row of weights."""
        demand(self.n, "the calibration set is empty: nothing went through this layer")
        return self.squares / self.n

    @property
    def size(self) -> Tensor:
        """The mean of |x| of each input, (in,)."""
        demand(self.n, "the calibration set is empty: nothing went through this layer")
        return self.sizes / self.n


def layer_error(w: Tensor, q: Tensor, H: Tensor) -> Tensor:
    """The mean of |(w - q) x|² for each output: w and q (out, in), H (in, in) -> (out,)."""
    lost = w - q.to(w.dtype)
    return ((lost @ H.to(w.dtype)) * lost).sum(-1)


def windows(ids: list[int] | Tensor, length: int, count: int) -> list[Tensor]:
    """At most `count` pieces of `length` tokens from a long text, spread evenly: each (1, length)."""
    ids = torch.as_tensor(ids, dtype=torch.long)
    demand(count >= 1 and length >= 1, "a calibration set has at least one window of at least one token")
    there = len(ids) // length
    demand(there, f"the calibration set is empty: {len(ids)} tokens hold no window of {length}")
    starts = torch.linspace(0, there - 1, min(count, there)).round().long() * length
    return [ids[i : i + length][None] for i in starts.tolist()]


@exercise
def gather(block, stage, states, where) -> Moments:
    """The moments of the input that the matrices named in stage share, over all states.

    block: a Block; stage: names of its modules, such as ("attn.wq", "attn.wk"); states: a list of the block's
    inputs (1, T, C); where: the list of keyword arguments that belong to them. The first matrix of the stage
    is listened to with a forward hook (`module.register_forward_pre_hook`), which is gone afterwards.
    """
    matrix = block.get_submodule(stage[0])
    moments = Moments(matrix.in_features, states[0].device)
    hook = matrix.register_forward_pre_hook(lambda module, inputs: moments.add(inputs[0]))
    try:
        for x, place in zip(states, where, strict=True):
            block(x, **place)
    finally:
        hook.remove()
    return moments


@torch.no_grad()
def walk(model, batches, visit, leave=lambda block: None, stages=STAGES):
    """Go through the blocks with batches, a list of tokens (1, T); returns the model.

    visit(block, names, moments) may replace or change the matrices of a stage; the stages after it and the
    blocks behind see what it did. leave(block) has the last word on a block. UserError: an empty set.
    """
    demand(len(batches), "the calibration set is empty: give at least one text")
    device = model.norm.weight.device
    tokens = [batch.to(device) for batch in batches]
    positions = [torch.arange(batch.size(1), device=device) for batch in tokens]
    states = [model.embed(*both) for both in zip(tokens, positions, strict=True)]  # (1, T, C) each
    where = [{"rope": model.rope(p), "positions": p} for p in positions]
    for block in model.blocks:
        present = {name for name, _ in block.named_modules()}
        for stage in stages:
            names = [name for name in stage if name in present]
            if names:
                visit(block, names, gather(block, names, states, where))
        leave(block)
        states = [block(x, **place) for x, place in zip(states, where, strict=True)]
    return model
