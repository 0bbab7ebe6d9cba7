"""A scaler that never backs off: after one overflow every step is skipped."""


class LossScaler:
    def update(self):
        self.good = 0 if self.overflow else self.good + 1
        if self.good == self.interval:
            self.scale, self.good = self.scale * self.growth, 0
