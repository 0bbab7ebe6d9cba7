"""Forgets the bias in the fused form."""


class OneRow:
    def forward(self, x):
        if not (torch.compiler.is_compiling() and x.numel() == x.size(-1)):
            return super().forward(x)
        return (self.weight * x.unsqueeze(-2)).sum(-1)
