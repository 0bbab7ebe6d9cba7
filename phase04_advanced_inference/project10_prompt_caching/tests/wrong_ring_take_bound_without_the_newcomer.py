"""The bound is taken from the mean of before: with nothing in hand, nobody may take anything."""


class Ring:
    def take(self, key):
        demand(self.loads, "no server is on the ring: add one first")
        most = self.slack * sum(self.loads.values()) / len(self.loads)
        server = next(server for server in self.walk(key) if self.loads[server] < most)
        self.loads[server] += 1
        return server
