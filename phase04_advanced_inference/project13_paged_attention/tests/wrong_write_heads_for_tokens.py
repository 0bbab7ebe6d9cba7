"""Keys and heads change places: (B, K, T, D) is laid out as it comes."""


class PagedCache:
    def write(self, k, v, positions):
        B, T = k.size(0), k.size(2)
        demand(positions.shape == (B, T), "positions are wrong")
        demand(torch.equal(positions, self.view.positions), "other positions")
        blocks, places = self.view.new
        self.k[blocks, :, places] = k.reshape(B, T, k.size(1), k.size(3))
        self.v[blocks, :, places] = v.reshape(B, T, k.size(1), k.size(3))
