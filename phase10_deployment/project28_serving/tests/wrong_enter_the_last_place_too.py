"""One place too many for a key that holds as many as are free."""


class Places:
    def enter(self, key):
        if self.free <= 0:
            raise Refused(503, "overloaded", "full", after=self.seconds)
        if self.taken[key] > self.free:
            raise Refused(429, "too_many_requests", "too many", after=self.seconds)
        self.taken[key] += 1
