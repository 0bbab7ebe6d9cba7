"""Keeps everything: right, but its memory has no end."""


class WindowCache:
    def extend(self, k, v):
        self.k, self.v = torch.cat((self.k, k), 2), torch.cat((self.v, v), 2)
        self._length = self.k.size(2)
        return self.k, self.v, torch.arange(self._length, device=k.device)
