"""Five optimisers by hand: what to do with a gradient.

Before: project 1 took torch's AdamW as it is. New here: the update itself. Each optimiser is one function,
`update(p, g, state, group)`, that moves one parameter p by its gradient g; what it remembers from step to
step lies in `state`, a dict, and its settings in `group`. Around it stands one loop for all of them,
`ByHand`, which also applies decoupled weight decay: the parameter shrinks by lr * weight_decay before it
moves, and the gradient knows nothing of it (Loshchilov & Hutter 2017, 1711.05101).

    AdamW      a step of about lr in every coordinate, whatever the size of the gradient   2 buffers
    Lion       only the sign counts                                                        1 buffer
    AdEMAMix   AdamW with a second, very long memory                                       3 buffers
    Sophia     divides by curvature instead of by the size of the gradient                 2 buffers
    Muon       for matrices: a step in which every direction is equally long               1 buffer

At the end the same AdamW for all parameters at once, which is what one would really run.
"""

import math

import torch

from common.exercise import exercise


class ByHand(torch.optim.Optimizer):
    """The loop around an update. A subclass says what it remembers (`start`) and how it moves (`update`)."""

    def __init__(self, params, **settings):
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    if not state:
                        state.update(step=0, **self.start(p))
                    state["step"] += 1
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    self.update(p, p.grad, state, group)
        return loss


class AdamW(ByHand):
    """Kingma & Ba 2014, 1412.6980; weight decay: Loshchilov & Hutter 2017, 1711.05101."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def start(self, p):
        return {"m": torch.zeros_like(p), "v": torch.zeros_like(p)}

    @exercise
    def update(self, p, g, state, group):
        """Move p in place. m and v are the running means of g and of g²; both start at zero and are too
        small at first, so m is divided by 1 - β1^t and v by 1 - β2^t, t = state["step"] counted from 1.

        p -= lr * m̂ / (√v̂ + eps), with β1, β2 = group["betas"].
        """
        beta1, beta2 = group["betas"]
        m, v, t = state["m"], state["v"], state["step"]
        m.lerp_(g, 1 - beta1)  # m = β1 m + (1 - β1) g
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        size = (v / (1 - beta2**t)).sqrt_().add_(group["eps"])
        p.addcdiv_(m, size, value=-group["lr"] / (1 - beta1**t))


class Lion(ByHand):
    """Chen et al. 2023, 2302.06675: found by a search over programs. Half of AdamW's memory."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)

    def start(self, p):
        return {"m": torch.zeros_like(p)}

    @exercise
    def update(self, p, g, state, group):
        """Move p in place by lr against the sign of a mean of m and g, β1 of m; then m takes in g, β2 of m
        stays.

        The sign uses the old m. Every coordinate moves by exactly lr, so lr is 3 to 10 times smaller than
        AdamW's.
        """
        beta1, beta2 = group["betas"]
        p.add_(torch.lerp(g, state["m"], beta1).sign_(), alpha=-group["lr"])
        state["m"].lerp_(g, 1 - beta2)


class AdEMAMix(ByHand):
    """Pagliardini, Ablin & Grangier 2024, 2409.03137: old gradients stay useful for tens of thousands of
    steps."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999, 0.9999), eps=1e-8, weight_decay=0.01, alpha=5.0,
                 warmup=0):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, alpha=alpha,
                         warmup=warmup)

    def start(self, p):
        return {"m": torch.zeros_like(p), "slow": torch.zeros_like(p), "v": torch.zeros_like(p)}

    @staticmethod
    def schedule(t, group):
        """(α, β3) of step t. With a warm-up of w > 0 steps α grows linearly, and β3's half-life grows
        linearly from β1's: a mean over 10,000 steps is of no use before there have been some."""
        beta1, _, beta3 = group["betas"]
        if not group["warmup"]:
            return group["alpha"], beta3
        part = min(1.0, t / group["warmup"])
        log1, log3 = math.log(beta1), math.log(beta3)
        return part * group["alpha"], min(beta3, math.exp(log1 * log3 / ((1 - part) * log3 + part * log1)))

    @exercise
    def update(self, p, g, state, group):
        """As AdamW, but the step is (m̂ + α slow) / (√v̂ + eps); `slow` is the mean of g with β3 and is not
        divided.

        α, β3 = self.schedule(t, group).
        """
        beta1, beta2, _ = group["betas"]
        t = state["step"]
        alpha, beta3 = self.schedule(t, group)
        state["m"].lerp_(g, 1 - beta1)
        state["slow"].lerp_(g, 1 - beta3)
        state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        size = (state["v"] / (1 - beta2**t)).sqrt_().add_(group["eps"])
        p.addcdiv_(state["m"] / (1 - beta1**t) + alpha * state["slow"], size, value=-group["lr"])


class Sophia(ByHand):
    """Liu et al. 2023, 2305.14342 (Sophia-G). Call `look` every tenth step or so, see there."""

    def __init__(self, params, lr=1e-3, betas=(0.965, 0.99), gamma=0.05, eps=1e-12, weight_decay=0.1):
        super().__init__(params, lr=lr, betas=betas, gamma=gamma, eps=eps, weight_decay=weight_decay)

    def start(self, p):
        return {"m": torch.zeros_like(p), "h": torch.zeros_like(p)}

    @exercise
    def update(self, p, g, state, group):
        """m = β1 m + (1 - β1) g; p -= lr * clip(m / max(γ h, eps), -1, 1).

        Where the curvature h is small the quotient is large and is clipped: the step is lr in the direction
        of the sign.
        """
        m, h = state["m"], state["h"]
        m.lerp_(g, 1 - group["betas"][0])
        p.add_((m / (group["gamma"] * h).clamp_(min=group["eps"])).clamp_(-1, 1), alpha=-group["lr"])

    @torch.no_grad()
    def look(self, n_tokens):
        """Take in the curvature: h = β2 h + (1 - β2) n_tokens ĝ².

        Before it, the gradients must be ĝ: those of the mean loss of a batch of n_tokens whose targets were
        drawn from the model's own prediction (Gauss-Newton-Bartlett; the estimate is right because of that
        drawing). After it, zero_grad.
        """
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    if not state:
                        state.update(step=0, **self.start(p))
                    state["h"].lerp_(n_tokens * p.grad * p.grad, 1 - group["betas"][1])


@exercise
def orthogonalise(g, steps=5):
    """(A, B) -> (A, B): the same directions, all of about the same length. With g = U S Vᵀ the result is
    near U Vᵀ.

    Newton-Schulz: x = g / |g|, then `steps` times x = a x + (b xxᵀ + c (xxᵀ)²) x. The polynomial a s + b s³
    + c s⁵ drives every singular value between 0 and 1 to somewhere between 0.7 and 1.2, in bfloat16 and
    without an SVD. Transposed where A > B, so that xxᵀ is the smaller of the two squares.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.size(0) > g.size(1)
    x = g.bfloat16().T if tall else g.bfloat16()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(ByHand):
    """Jordan et al. 2024 (blog); as in torch.optim.Muon. For matrices inside the network; the rest takes
    AdamW."""

    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.1, match_adamw=False):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, match_adamw=match_adamw)

    def start(self, p):
        if p.dim() != 2:
            raise ValueError(f"Muon moves matrices: give a parameter of shape {tuple(p.shape)} to AdamW")
        return {"m": torch.zeros_like(p)}

    @exercise
    def update(self, p, g, state, group):
        """m = μ m + (1 - μ) g; p -= lr * scale * orthogonalise((1 - μ) g + μ m), Nesterov's look ahead, μ =
        group["momentum"].

        scale is √max(1, rows / columns). With match_adamw it is 0.2 √max(rows, columns): a step as long as
        AdamW's, so that lr and weight decay can be AdamW's (Liu et al. 2025, 2502.16982).
        """
        rows, columns = p.shape
        m = state["m"].lerp_(g, 1 - group["momentum"])
        scale = 0.2 * max(rows, columns) ** 0.5 if group["match_adamw"] else max(1, rows / columns) ** 0.5
        p.add_(orthogonalise(g.lerp(m, group["momentum"])), alpha=-group["lr"] * scale)


class ForeachAdamW(AdamW):
    """AdamW again, each line for all parameters of a group at once: a model has a hundred small ones, and a
    call for each line of each of them is most of the time."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p].update(step=0, **self.start(p))
                self.state[p]["step"] += 1
            if params:
                self.update_all(params, [p.grad for p in params], [self.state[p] for p in params], group)
        return loss

    @staticmethod
    def update_all(params, grads, states, group):
        """`AdamW.update` for lists. All parameters of a group have seen the same number of steps."""
        (beta1, beta2), t, lr = group["betas"], states[0]["step"], group["lr"]
        m, v = [s["m"] for s in states], [s["v"] for s in states]
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, value=1 - beta2)
        size = torch._foreach_sqrt(v)
        # √(v / c) + eps = (√v + √c eps) / √c, which saves a pass over the weights
        root = math.sqrt(1 - beta2**t)
        torch._foreach_add_(size, root * group["eps"])
        torch._foreach_addcdiv_(params, m, size, value=-lr * root / (1 - beta1**t))
