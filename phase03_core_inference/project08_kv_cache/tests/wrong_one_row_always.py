"""Multiplies and sums when it is not compiled too: the product is written to memory."""


class OneRow:
    def forward(self, x):
        y = (self.weight * x.unsqueeze(-2)).sum(-1)
        return y if self.bias is None else y + self.bias
