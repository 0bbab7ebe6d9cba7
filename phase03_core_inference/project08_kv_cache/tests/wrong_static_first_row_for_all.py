"""Puts every row's tokens where the first row stands."""


class StaticCache:
    def update(self, k, v, positions):
        demand(positions.dim() == 2, "a static cache takes positions (B, T)")
        self.k[:, :, positions[0]] = k
        self.v[:, :, positions[0]] = v
        return self.k, self.v
