"""Keeps the last texts only: the moments are of one batch, divided by the number of all."""


class Moments:
    def add(self, x):
        x = x.flatten(0, -2).float()
        demand(x.isfinite().all(), "the calibration texts make inputs that are NaN or infinite: which model?")
        self.n += len(x)
        self.squares = x.T @ x
        self.sizes = x.abs().sum(0)
