"""Multiplies in float32 and rounds the result: right numbers, and nothing is faster."""


class MixedLinear:
    def forward(self, x):
        return F.linear(x.float(), self.weight.float(), self.bias).to(self.policy.work)
