"""Divides by the root of h, as Adam does with v: h is a curvature already, not a square."""


class Sophia:
    def update(self, p, g, state, group):
        m, h = state["m"], state["h"]
        m.lerp_(g, 1 - group["betas"][0])
        p.add_((m / (group["gamma"] * h.sqrt()).clamp_(min=group["eps"])).clamp_(-1, 1), alpha=-group["lr"])
