"""Returns only the slots up to the furthest token: a shape that changes from step to step."""


class StaticCache:
    def update(self, k, v, positions):
        demand(positions.dim() == 2, "a static cache takes positions (B, T)")
        rows = torch.arange(k.size(0), device=k.device)[:, None]
        self.k[rows, :, positions] = k.transpose(1, 2)
        self.v[rows, :, positions] = v.transpose(1, 2)
        end = int(positions.max()) + 1
        return self.k[:, :, :end], self.v[:, :, :end]
