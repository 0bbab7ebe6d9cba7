"""Feeds both branches from the same x: the feed-forward never sees what attention found."""


class Block:
    def forward(self, x):
        return x + self.drop(self.attn(self.norm_attn(x))) + self.drop(self.ffn(self.norm_ffn(x)))
