"""Returns a stretch of slots in their own order, not in the order of the rows."""


class SlotCache:
    def update(self, k, v, positions):
        B, T = k.size(0), k.size(2)
        demand(positions.shape == (B, T), "positions (B, T)")
        rows = torch.tensor(self.rows)
        self.k[rows[:, None], :, positions] = k.transpose(1, 2)
        self.v[rows[:, None], :, positions] = v.transpose(1, 2)
        rows = slice(min(self.rows), min(self.rows) + B)
        return self.k[rows, :, : self.longest], self.v[rows, :, : self.longest]
