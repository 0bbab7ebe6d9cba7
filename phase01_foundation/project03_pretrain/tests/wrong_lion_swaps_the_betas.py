"""Uses β2 for the step and β1 for the memory."""


class Lion:
    def update(self, p, g, state, group):
        beta1, beta2 = group["betas"]
        p.add_(torch.lerp(g, state["m"], beta2).sign_(), alpha=-group["lr"])
        state["m"].lerp_(g, 1 - beta1)
