"""Counts the scales of values only, as those of keys are shared."""


class Format:
    def bytes_per_token(self, K, D):
        return K * (2 * D * self.bits / 8 + D * tail(self.bits) / self.channels(D))
