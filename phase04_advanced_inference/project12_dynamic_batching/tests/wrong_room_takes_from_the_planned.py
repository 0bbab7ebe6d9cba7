"""Preempts whoever has a place in this step already."""


class Scheduler:
    def make_room(self, sequence, n, planned):
        while not self.store.reserve(sequence.id, sequence.computed + n):
            others = [one for one in self.running.values() if one is not sequence]
            if not others:
                return False
            self.preempt(max(others, key=lambda one: one.urgency))
        return True
