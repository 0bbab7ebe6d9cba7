"""Believes any positions, so a token one place too far goes unnoticed."""


class KVCache:
    def update(self, k, v, positions):
        start, end = self._length, self._length + k.size(2)
        self.k[:, :, start:end], self.v[:, :, start:end] = k, v
        self._length = end
        return self.k[:, :, :end], self.v[:, :, :end]
