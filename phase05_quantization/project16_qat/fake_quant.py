"""Rounding in the middle of training: forwards as coarse as the codes will be, backwards as if not there.

Before: project 14 rounded a finished model, once, and what that lost was lost. New here: the weights stay
float32 and are rounded anew on their way into every product, so the loss is that of the coarse model, and
training moves the weights to where the rounding does least harm. Three things make it work:

    w ──► ÷ step ──► round ──► clamp ──► × step ──► what the product sees          (forwards)
    dw ◄─────── 1, or 0 where clamped ◄──────────── dy                             (backwards)

- *straight through*: the derivative of round is 0 almost everywhere; backwards it is taken for the identity;
- a *learned step*: the size of a step is trained as well, by a gradient that the same pretence gives (LSQ);
- *observers*: inputs are not known beforehand; their range is watched for a while, then frozen.

Letters here: R rows of a grid, each with a step of its own (a row of a matrix, or a group); n numbers in it.
Jacob et al. 2018, 1712.05877; Bengio et al. 2013, 1308.3432 (straight through); Esser et al. 2020, 1902.08153
(learned step size); Bhalgat et al. 2020, 2004.09576 (where it begins); Krishnamoorthi 2018, 1806.08342
(observers).
"""

import math

import torch
from torch import nn

from common.errors import demand
from common.exercise import exercise
from phase05_quantization.project14_ptq.rtn import Grid, dequantize, qmax, quantize

SMALLEST = 2.0**-14  # of the steps of weights: below it float16 has fewer digits
TINY = 1e-12  # of the steps of inputs: a row of zeros has one too

# ---- the naive version: one honest operation after the other, and autograd ---------------------------------


class Straight(torch.autograd.Function):
    """Round to whole numbers, halves to the even one, as project 14 does; any shape."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    @exercise
    def backward(ctx, dy):
        """dy, of the shape of x -> what is sent back to x: as if round had done nothing."""
        return dy


@exercise
def to_codes(x, step, bits):
    """x (R, n), step (R, 1) or () -> codes (R, n): whole numbers in -qmax - 1 … qmax, as floats.

    Divide, `Straight`, and clamp last: what is clamped is the code, so that a number just beyond the last
    code, which rounds back to it, still learns. Differentiable in x and in step.
    """
    most = qmax(bits)
    return Straight.apply(x / step).clamp(-most - 1, most)


def naive(x, step, bits):
    """x (R, n), step (R, 1) -> (R, n): the values that the codes stand for. The oracle of `FakeQuantize`."""
    return to_codes(x, step, bits) * step


# ---- the same in one operation: half the passes over the weights, a quarter of the memory ------------------


class FakeQuantize(torch.autograd.Function):
    """(w (out, in), step (out, groups), bits) -> (out, in): exactly what project 14 makes of w's codes.

    Exactly, since it is project 14's own `quantize` and `dequantize` that are called. Kept for the way back:
    w itself, which is there anyway, and the codes, a byte each.
    """

    @staticmethod
    def forward(ctx, w, step, bits):
        grid = Grid(step, None)
        codes = quantize(w, grid, bits)
        ctx.save_for_backward(w, codes, step)
        return dequantize(codes, grid)

    @staticmethod
    def backward(ctx, dy):
        w, codes, step = ctx.saved_tensors
        rows = step.numel()
        dw, dstep = gradients(*(t.reshape(rows, -1) for t in (dy, w, codes, step)))
        return dw.view_as(w), dstep.view_as(step), None


@exercise
def gradients(dy, x, codes, step):
    """dy, x and codes (int8), each (R, n), step (R, 1) -> (dx (R, n), dstep (R, 1)).

    With v = x / step: a code is clamped where rounding v gives another one. Then the value no longer depends
    on x, and grows with the step by the code. Elsewhere dx = dy, and the value, code · step, changes with
    the step by code - v: the code, less what v itself loses as the step grows (Esser et al., equation 3).
    """
    v = x / step
    inside = v.round() == codes
    return dy * inside, (dy * (codes - v * inside)).sum(1, keepdim=True)


# ---- learned steps -----------------------------------------------------------------------------------------


def candidates(x, bits):
    """Steps to begin with, x (R, n) -> each (R, 1): one that reaches the largest number, down to a tenth."""
    reach = x.abs().amax(1, keepdim=True) / qmax(bits)
    return [(reach * 10 ** (-i / 31)).clamp(min=SMALLEST) for i in range(32)]


@exercise
@torch.no_grad()
def first_step(x, bits):
    """Where a learned step begins: x (R, n) -> (R, 1), for each row the candidate whose values lie nearest.

    Nearest: the smallest sum of squares of naive(x, step, bits) - x, as in LSQ+ (Bhalgat et al. 2020, 3.2).
    """
    steps = torch.stack(candidates(x, bits))  # (32, R, 1)
    errors = torch.stack([(naive(x, step, bits) - x).square().sum(1, keepdim=True) for step in steps])
    return steps.gather(0, errors.argmin(0, keepdim=True))[0]


@exercise
def gradient_scale(n, bits):
    """By how much the gradient of a step that n numbers share is damped: 1 / √(n · qmax(bits)).

    A step gathers the gradients of all n, so that it would move far faster, for its size, than a weight
    does (Esser et al., 2.2).
    """
    return 1 / math.sqrt(n * qmax(bits))


class Kept(torch.autograd.Function):
    """A step as it will be kept, rounded to float16 and not below SMALLEST; any shape, in float32.

    Backwards straight through, times a factor. Rounded here already, so that training sees what is exported.
    """

    @staticmethod
    def forward(ctx, step, factor):
        ctx.factor = factor
        return step.clamp(min=SMALLEST).half().float()

    @staticmethod
    def backward(ctx, dy):
        return dy * ctx.factor, None


# ---- observers ---------------------------------------------------------------------------------------------


class Observer(nn.Module):
    """Watches the range of what passes by, until it is frozen; then a step is taken from it.

    momentum None: the widest range so far. Else an average that forgets: the range moves by that share of
    the way towards each new tensor's. `low` and `high` are (), and inf and -inf before anything was seen.
    """

    def __init__(self, momentum=None, bits=8):
        super().__init__()
        sense = momentum is None or 0 < momentum <= 1
        demand(sense, f"momentum is {momentum}: a share of the way, over 0 and at most 1, or None")
        self.momentum, self.bits, self.frozen = momentum, bits, False
        self.register_buffer("low", torch.tensor(math.inf))
        self.register_buffer("high", torch.tensor(-math.inf))

    @exercise
    @torch.no_grad()
    def see(self, x):
        """Take x, of any shape, into account; the first one sets the range. Nothing, once frozen."""
        if self.frozen:
            return
        low, high = x.aminmax()
        if self.momentum is None:
            low, high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        else:
            new = self.low > self.high  # nothing was seen yet
            low = torch.where(new, low, self.low + self.momentum * (low - self.low))
            high = torch.where(new, high, self.high + self.momentum * (high - self.high))
        self.low.copy_(low)
        self.high.copy_(high)

    def freeze(self):
        """From now on the range stays. UserError where nothing was seen, or something that is no number."""
        demand(bool(self.low <= self.high), "an input's range was never seen, or is not a number: "
               "calibrate(model, batches) first, and not with an empty set")  # fmt: skip
        self.frozen = True

    def step(self):
        """The step () with which the larger end of the range just fits; UserError where nothing was seen."""
        demand(self.frozen or bool(self.low <= self.high), "the inputs have not been seen yet: run "
               "calibrate(model, batches), or train for some updates, before judging")  # fmt: skip
        return (torch.maximum(-self.low, self.high) / qmax(self.bits)).clamp(min=TINY)
