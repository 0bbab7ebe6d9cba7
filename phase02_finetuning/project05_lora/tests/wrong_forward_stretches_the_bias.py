"""Has DoRA stretch the bias along with the row."""


class LoRALinear:
    def forward(self, x):
        y = self.base(x)
        low = F.linear(self.dropout(x), self.A.to(x.dtype)) * self.scale
        y = y + F.linear(low, self.B.to(low.dtype))
        return y if self.magnitude is None else y * (self.magnitude / self.lengths()).to(y.dtype)
