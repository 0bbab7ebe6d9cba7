"""Looks for overflow and forgets to divide: Adam hides it, clipping does not."""


class LossScaler:
    def unscale(self, parameters):
        grads = [p.grad for p in parameters if p.grad is not None]
        self.overflow = not all(grad.isfinite().all() for grad in grads)
