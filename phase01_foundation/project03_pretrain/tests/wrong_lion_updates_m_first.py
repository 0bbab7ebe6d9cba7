"""Takes the gradient into m before the step, so that the sign sees it twice."""


class Lion:
    def update(self, p, g, state, group):
        beta1, beta2 = group["betas"]
        state["m"].lerp_(g, 1 - beta2)
        p.add_(torch.lerp(g, state["m"], beta1).sign_(), alpha=-group["lr"])
