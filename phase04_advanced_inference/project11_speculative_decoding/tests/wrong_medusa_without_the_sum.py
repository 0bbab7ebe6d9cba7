"""Forgets to add the hidden state that it read."""


class Medusa:
    def forward(self, hidden):
        return torch.stack([F.silu(layer(hidden)) for layer in self.layers], dim=-2)
