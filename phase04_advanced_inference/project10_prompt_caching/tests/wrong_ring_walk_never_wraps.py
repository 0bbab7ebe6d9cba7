"""The circle is a line: behind its last place nobody is met."""

from bisect import bisect

from phase04_advanced_inference.project10_prompt_caching.ring import place


class Ring:
    def walk(self, key):
        met = {}
        for at in self.places[bisect(self.places, place(key)) :]:
            met.setdefault(self.owner[at])
        return list(met)
