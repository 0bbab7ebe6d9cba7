"""Gives float32: each of the three products after it has to cast it again."""


class MixedNorm:
    def forward(self, x):
        safe = self.policy.safe
        return F.rms_norm(x.to(safe), self.weight.shape, self.weight.to(safe), self.eps)
