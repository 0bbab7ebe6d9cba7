"""Copies the model's weights onto the masters: no step is ever made."""


class Masters:
    def hand_out(self):
        for low, high in zip(self.low, self.high, strict=True):
            high.copy_(low)
