"""Of several tokens a row only the last is written."""


class PagedCache:
    def write(self, k, v, positions):
        B, T = k.size(0), k.size(2)
        demand(positions.shape == (B, T), "positions are wrong")
        demand(torch.equal(positions, self.view.positions), "other positions")
        blocks, places = (x[:, -1] for x in self.view.new)
        self.k[blocks, :, places] = k[:, :, -1]
        self.v[blocks, :, places] = v[:, :, -1]
