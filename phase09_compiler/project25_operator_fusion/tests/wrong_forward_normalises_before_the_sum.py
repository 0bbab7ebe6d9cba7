"""The norm sees the branch alone, without the residual."""


class FusedBlock:
    def forward(self, x, **where):
        y = self.dropout(self.attn(self.norm_attn(x), **where))
        x = x + y
        y = self.kernels.rms_norm(y, self.norm_ffn.weight, self.norm_ffn.eps)
        return x + self.dropout(self.ffn(y))
