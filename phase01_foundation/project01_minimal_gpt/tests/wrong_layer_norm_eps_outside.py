"""Adds eps after the root, not under it."""


class LayerNorm:
    def forward(self, x):
        centred = x - x.mean(dim=-1, keepdim=True)
        spread = centred.square().mean(dim=-1, keepdim=True).sqrt()
        return self.weight * centred / (spread + self.eps) + self.bias
