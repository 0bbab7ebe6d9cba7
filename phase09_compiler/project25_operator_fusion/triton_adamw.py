"""AdamW in Triton: a parameter, its gradient and both moments visited once in an update.

Before: `chains.adamw`, a dozen kernels, which move each number some thirty times. New here: four loads and
three stores. Loshchilov and Hutter 2019, 1711.05101; Kingma and Ba 2015, 1412.6980."""

import torch
import triton
import triton.language as tl
from triton.language import constexpr

from common.exercise import exercise

from .triton_rows import ready

BLOCK = 1024


@triton.jit
@exercise
def adamw_block(p, g, m, v, lr, beta1, beta2, eps, decay, fix1, fix2):
    """One update of numbers p by gradients g, with moments m and v, all (BLOCK,), float32 -> (p, m, v).

    fix1 is 1 - beta1^step, by which the first moment is divided, and fix2 the same of the second. The decay
    is of p as it was, times lr, and has nothing to do with the moments; eps is added to the root.
    """
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * g * g
    p = p * (1.0 - lr * decay) - lr * (m / fix1) / (tl.sqrt(v / fix2) + eps)
    return p, m, v


@triton.jit
def adamw_kernel(p, g, m, v, n, lr, beta1, beta2, eps, decay, fix1, fix2, BLOCK: constexpr):
    """Numbers program_id(0) BLOCK and following, of n."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    weight, back = tl.load(p + at, mask=inside, other=0.0), tl.load(g + at, mask=inside, other=0.0)
    mean, square = tl.load(m + at, mask=inside, other=0.0), tl.load(v + at, mask=inside, other=0.0)
    weight, back = weight.to(tl.float32), back.to(tl.float32)
    mean, square = mean.to(tl.float32), square.to(tl.float32)
    weight, mean, square = adamw_block(weight, back, mean, square, lr, beta1, beta2, eps, decay, fix1, fix2)
    tl.store(p + at, weight.to(p.dtype.element_ty), mask=inside)
    tl.store(m + at, mean.to(m.dtype.element_ty), mask=inside)
    tl.store(v + at, square.to(v.dtype.element_ty), mask=inside)


class AdamW(torch.optim.Optimizer):
    """As torch.optim.AdamW. Parameters are contiguous."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        """One update of everything that has a gradient."""
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                state["step"] += 1
                (grad,), fixes = ready(p.grad), [1 - beta ** state["step"] for beta in group["betas"]]
                adamw_kernel[(triton.cdiv(p.numel(), BLOCK),)](
                    p, grad, state["m"], state["v"], p.numel(), group["lr"], *group["betas"], group["eps"],
                    group["weight_decay"], *fixes, BLOCK=BLOCK)  # fmt: skip
