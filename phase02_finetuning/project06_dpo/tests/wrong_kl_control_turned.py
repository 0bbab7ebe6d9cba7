"""The price falls where KL is too high."""


class KLControl:
    def update(self, kl, n):
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.beta *= 1 - error * n / self.horizon
