"""Multiplies in 16 bits and gives 32: everything after it is as slow and large as before."""


class MixedLinear:
    def forward(self, x):
        work = self.policy.work
        bias = None if self.bias is None else self.bias.to(work)
        return F.linear(x.to(work), self.weight.to(work), bias).float()
