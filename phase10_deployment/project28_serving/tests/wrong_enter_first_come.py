"""First come, first served: one key takes all the places, and a stranger finds none."""


class Places:
    def enter(self, key):
        if self.free <= 0:
            raise Refused(503, "overloaded", "full", after=self.seconds)
        self.taken[key] += 1
