"""Who is refused is charged all the same: whoever asks again and again never gets anything."""


class TokenBucket:
    def take(self, n):
        if math.isinf(self.rate):
            return 0.0
        now = self.clock()
        self.level, self.at = min(self.rate, self.level + (now - self.at) * self.rate / 60), now
        if n > self.rate:
            return math.inf
        self.level -= n
        return max(0.0, -self.level * 60 / self.rate)
