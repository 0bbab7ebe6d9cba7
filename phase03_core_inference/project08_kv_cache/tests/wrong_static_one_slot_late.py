"""Writes one slot behind each token's own."""


class StaticCache:
    def update(self, k, v, positions):
        demand(positions.dim() == 2, "a static cache takes positions (B, T)")
        rows = torch.arange(k.size(0), device=k.device)[:, None]
        late = (positions + 1).clamp(max=self.k.size(2) - 1)
        self.k[rows, :, late] = k.transpose(1, 2)
        self.v[rows, :, late] = v.transpose(1, 2)
        return self.k, self.v
