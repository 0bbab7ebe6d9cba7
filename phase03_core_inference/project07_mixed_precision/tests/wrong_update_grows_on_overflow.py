"""A scaler that grows on overflow: the two factors are mixed up."""


class LossScaler:
    def update(self):
        self.good = 0 if self.overflow else self.good + 1
        if self.overflow:
            self.scale *= self.growth
        elif self.good == self.interval:
            self.scale, self.good = self.scale * self.backoff, 0
