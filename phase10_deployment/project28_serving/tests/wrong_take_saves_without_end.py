"""The level rises above what the bucket holds: a day of rest allows a flood."""


class TokenBucket:
    def take(self, n):
        if math.isinf(self.rate):
            return 0.0
        now = self.clock()
        self.level, self.at = self.level + (now - self.at) * self.rate / 60, now
        if n > self.rate:
            return math.inf
        if n > self.level:
            return (n - self.level) * 60 / self.rate
        self.level -= n
        return 0.0
