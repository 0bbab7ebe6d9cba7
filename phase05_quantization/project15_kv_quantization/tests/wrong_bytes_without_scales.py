"""Counts the codes alone: 50 %."""


class Format:
    def bytes_per_token(self, K, D):
        return K * 2 * D * self.bits / 8
