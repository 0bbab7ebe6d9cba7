"""Counts texts and not tokens: the means are too large by the length of a text."""


class Moments:
    def add(self, x):
        demand(x.isfinite().all(), "the calibration texts make inputs that are NaN or infinite: which model?")
        self.n += len(x)
        x = x.flatten(0, -2).float()
        self.squares += x.T @ x
        self.sizes += x.abs().sum(0)
