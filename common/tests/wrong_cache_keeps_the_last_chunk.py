"""Keeps the newest chunk and forgets all that came before it."""


class Cache:
    def update(self, k, v, positions):
        demand(positions.dim() == 1, "rows at different places need an addressed cache")
        self.length += k.size(2)
        self.k, self.v = k, v
        return k, v
