"""Divides the variance by C - 1, as var() does by default."""


class LayerNorm:
    def forward(self, x):
        variance = x.var(dim=-1, keepdim=True)
        return self.weight * (x - x.mean(dim=-1, keepdim=True)) / torch.sqrt(variance + self.eps) + self.bias
