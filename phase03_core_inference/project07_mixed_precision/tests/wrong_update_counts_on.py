"""An overflow does not reset the count: it grows again at once after backing off."""


class LossScaler:
    def update(self):
        self.good += not self.overflow
        if self.overflow:
            self.scale *= self.backoff
        elif self.good == self.interval:
            self.scale, self.good = self.scale * self.growth, 0
