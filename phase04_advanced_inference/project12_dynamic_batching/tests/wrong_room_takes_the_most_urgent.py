"""Preempts the most urgent instead of the least."""


class Scheduler:
    def make_room(self, sequence, n, planned):
        while not self.store.reserve(sequence.id, sequence.computed + n):
            others = [one for one in self.running.values() if one is not sequence and one.id not in planned]
            if not others:
                return False
            self.preempt(min(others, key=lambda one: one.urgency))
        return True
