"""Sends off the next bucket whenever any is full: perhaps one that is not."""


class Buckets:
    def ready(self, p):
        self.missing[self.home[p]] -= 1
        if self.missing[self.home[p]] == 0:
            self.send()
