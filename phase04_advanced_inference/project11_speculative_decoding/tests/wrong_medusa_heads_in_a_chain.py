"""Feeds each head what the one before it gave, instead of the hidden state."""


class Medusa:
    def forward(self, hidden):
        x, found = hidden, []
        for layer in self.layers:
            x = x + F.silu(layer(x))
            found.append(x)
        return torch.stack(found, dim=-2)
