"""The first server clockwise, however much it has in hand."""


class Ring:
    def take(self, key):
        demand(self.loads, "no server is on the ring: add one first")
        server = self.walk(key)[0]
        self.loads[server] += 1
        return server
