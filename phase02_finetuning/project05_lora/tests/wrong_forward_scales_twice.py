"""Scales after A and again after B."""


class LoRALinear:
    def forward(self, x):
        low = F.linear(self.dropout(x), self.A.to(x.dtype)) * self.scale
        return self.base(x) + F.linear(low, self.B.to(low.dtype)) * self.scale
