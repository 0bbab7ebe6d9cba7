"""Returns the whole room instead of what is filled."""


class KVCache:
    def update(self, k, v, positions):
        self.check(k, positions)
        start, end = self._length, self._length + k.size(2)
        self.k[:, :, start:end], self.v[:, :, start:end] = k, v
        self._length = end
        return self.k, self.v
