"""Does not clip: where the curvature is nearly zero the step is enormous."""


class Sophia:
    def update(self, p, g, state, group):
        m, h = state["m"], state["h"]
        m.lerp_(g, 1 - group["betas"][0])
        p.add_(m / (group["gamma"] * h).clamp_(min=group["eps"]), alpha=-group["lr"])
