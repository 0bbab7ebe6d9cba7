"""Forgets wo: the heads are laid side by side but never put together."""


class Attention:
    def forward(self, x):
        y, _ = attend(*self.project(x), causal=self.causal)
        return merge_heads(y)
