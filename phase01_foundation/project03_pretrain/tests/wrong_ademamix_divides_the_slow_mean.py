"""Divides the slow mean by 1 - β3^t as well, so that it has its full weight before it has seen anything."""


class AdEMAMix:
    def update(self, p, g, state, group):
        beta1, beta2, _ = group["betas"]
        t = state["step"]
        alpha, beta3 = self.schedule(t, group)
        state["m"].lerp_(g, 1 - beta1)
        state["slow"].lerp_(g, 1 - beta3)
        state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        size = (state["v"] / (1 - beta2**t)).sqrt_().add_(group["eps"])
        slow = state["slow"] / (1 - beta3**t)
        p.addcdiv_(state["m"] / (1 - beta1**t) + alpha * slow, size, value=-group["lr"])
