"""Steps, and does not say whether it did."""


class LossScaler:
    def step(self, optimizer):
        if not self.overflow:
            optimizer.step()
