"""Gives the adapter's share alone, without what the frozen matrix says."""


class LoRALinear:
    def forward(self, x):
        return F.linear(F.linear(self.dropout(x), self.A.to(x.dtype)), self.B.to(x.dtype)) * self.scale
