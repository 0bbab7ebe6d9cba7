"""Looks at the first gradient only."""


class LossScaler:
    def unscale(self, parameters):
        grads = [p.grad for p in parameters if p.grad is not None]
        for grad in grads:
            grad.mul_(1 / self.scale)
        self.overflow = not grads[0].isfinite().all()
