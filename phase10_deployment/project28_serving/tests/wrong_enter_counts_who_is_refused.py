"""Who is refused holds a place all the same, which nobody will ever give back."""


class Places:
    def enter(self, key):
        self.taken[key] += 1
        if self.free < 0:
            raise Refused(503, "overloaded", "full", after=self.seconds)
        if self.taken[key] - 1 > self.free:
            raise Refused(429, "too_many_requests", "too many", after=self.seconds)
