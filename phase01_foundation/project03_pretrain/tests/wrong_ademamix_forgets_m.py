"""Steps along the slow mean only."""


class AdEMAMix:
    def update(self, p, g, state, group):
        _, beta2, _ = group["betas"]
        t = state["step"]
        alpha, beta3 = self.schedule(t, group)
        state["slow"].lerp_(g, 1 - beta3)
        state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        size = (state["v"] / (1 - beta2**t)).sqrt_().add_(group["eps"])
        p.addcdiv_(alpha * state["slow"], size, value=-group["lr"])
