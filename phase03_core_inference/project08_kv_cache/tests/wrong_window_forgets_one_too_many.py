"""Holds one token less than the window can see."""


class WindowCache:
    def extend(self, k, v):
        k, v = torch.cat((self.k, k), 2), torch.cat((self.v, v), 2)
        self._length += k.size(2) - self.k.size(2)
        first = max(0, k.size(2) - max(0, self.window - 2))
        self.k, self.v = k[:, :, first:].clone(), v[:, :, first:].clone()
        return k, v, torch.arange(self._length - k.size(2), self._length, device=k.device)
