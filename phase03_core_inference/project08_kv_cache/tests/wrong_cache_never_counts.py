"""Writes every token into the first slots: the length never grows."""


class KVCache:
    def update(self, k, v, positions):
        start, end = self._length, self._length + k.size(2)
        self.k[:, :, start:end], self.v[:, :, start:end] = k, v
        return self.k[:, :, :end], self.v[:, :, :end]
