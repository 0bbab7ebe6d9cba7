"""Takes rows of values for as long as `group`, also where a head is shorter."""


class Format:
    def bytes_per_token(self, K, D):
        return K * (2 * D * self.bits / 8 + 2 * D * tail(self.bits) / self.group)
