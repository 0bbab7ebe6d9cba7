"""Whoever has least in hand: even, and no key ever stays anywhere."""


class Ring:
    def take(self, key):
        demand(self.loads, "no server is on the ring: add one first")
        server = min(self.walk(key), key=self.loads.get)
        self.loads[server] += 1
        return server
