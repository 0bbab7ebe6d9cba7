"""Master weights in 16 bits: the masters are rounded too, and small steps are lost again."""


class Masters:
    def hand_out(self):
        for low, high in zip(self.low, self.high, strict=True):
            low.copy_(high)
            high.copy_(low)
