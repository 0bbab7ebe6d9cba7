"""Leaves out the bias correction: the first steps are ten times too short or too long."""


class AdamW:
    def update(self, p, g, state, group):
        beta1, beta2 = group["betas"]
        m, v = state["m"], state["v"]
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        p.addcdiv_(m, v.sqrt().add_(group["eps"]), value=-group["lr"])
