"""hash % N: even, and when N changes nearly every key moves."""

from phase04_advanced_inference.project10_prompt_caching.ring import place


class Ring:
    def walk(self, key):
        servers = list(self.loads)
        first = place(key) % len(servers) if servers else 0
        return servers[first:] + servers[:first]
