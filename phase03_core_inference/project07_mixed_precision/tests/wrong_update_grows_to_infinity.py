"""Grows past what float32 holds: an infinite scale, and NaN in every gradient."""


class LossScaler:
    def update(self):
        self.good = 0 if self.overflow else self.good + 1
        if self.overflow:
            self.scale *= self.backoff
        elif self.good == self.interval:
            self.scale, self.good = self.scale * self.growth, 0
