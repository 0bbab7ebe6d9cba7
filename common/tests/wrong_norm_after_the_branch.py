"""Norms what each branch returns, where it is what each branch reads that is normed."""


class Block:
    def forward(self, x, **where):
        x = x + self.dropout(self.norm_attn(self.attn(x, **where)))
        return x + self.dropout(self.norm_ffn(self.ffn(x)))
