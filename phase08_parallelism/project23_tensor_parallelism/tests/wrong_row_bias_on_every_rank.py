"""Adds the bias before the sum: it is in there N times."""


class RowLinear:
    def forward(self, x):
        return self.region.leave(F.linear(x, self.weight, self.bias))
