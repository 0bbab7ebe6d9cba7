"""Forgets the sum: each rank goes on with its own product."""


class RowLinear:
    def forward(self, x):
        y = F.linear(x, self.weight)
        return y if self.bias is None else y + self.bias
