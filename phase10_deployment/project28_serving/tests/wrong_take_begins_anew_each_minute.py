"""A window instead of a bucket: full again at each new minute, so twice the rate fits around its edge."""


class TokenBucket:
    def take(self, n):
        if math.isinf(self.rate):
            return 0.0
        if self.clock() - self.at >= 60:
            self.level, self.at = self.rate, self.clock()
        if n > self.rate:
            return math.inf
        if n > self.level:
            return 60 - (self.clock() - self.at)
        self.level -= n
        return 0.0
