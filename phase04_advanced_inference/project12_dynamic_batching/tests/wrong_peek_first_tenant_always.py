"""The most urgent of all, whoever had the most already."""


class Waiting:
    def peek(self):
        if not self.sequences:
            return None
        return min(self.sequences.values(), key=lambda one: one.urgency)
