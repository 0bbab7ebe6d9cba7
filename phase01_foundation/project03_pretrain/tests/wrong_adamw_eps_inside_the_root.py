"""Adds eps under the root, where it is a thousand times larger."""


class AdamW:
    def update(self, p, g, state, group):
        beta1, beta2 = group["betas"]
        m, v, t = state["m"], state["v"], state["step"]
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        size = (v / (1 - beta2**t) + group["eps"]).sqrt_()
        p.addcdiv_(m, size, value=-group["lr"] / (1 - beta1**t))
