"""Makes room with a division in 16 bits: the smallest gradients are gone before the masters see them."""


class Masters:
    def collect(self):
        for low, high in zip(self.low, self.high, strict=True):
            high.grad = None if low.grad is None else (low.grad / 1024).float() * 1024
            low.grad = None
