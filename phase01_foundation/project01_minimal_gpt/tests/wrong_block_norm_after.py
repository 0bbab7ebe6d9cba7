"""Puts the norm after the addition, as in 2017: what flows through is normalised again and again."""


class Block:
    def forward(self, x):
        x = self.norm_attn(x + self.drop(self.attn(x)))
        return self.norm_ffn(x + self.drop(self.ffn(x)))
