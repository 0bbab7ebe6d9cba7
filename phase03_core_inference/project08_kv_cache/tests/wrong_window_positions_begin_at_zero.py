"""Says that the keys it holds stand at 0, 1, …, wherever the text is."""


class WindowCache:
    def extend(self, k, v):
        k, v = torch.cat((self.k, k), 2), torch.cat((self.v, v), 2)
        self._length += k.size(2) - self.k.size(2)
        first = max(0, k.size(2) - (self.window - 1))
        self.k, self.v = k[:, :, first:].clone(), v[:, :, first:].clone()
        return k, v, torch.arange(k.size(2), device=k.device)
