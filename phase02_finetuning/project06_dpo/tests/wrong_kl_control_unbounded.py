"""One odd phase may change the price by any factor."""


class KLControl:
    def update(self, kl, n):
        error = kl / self.target - 1
        self.beta *= 1 + error * n / self.horizon
