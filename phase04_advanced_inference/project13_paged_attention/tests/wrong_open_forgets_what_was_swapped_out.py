"""What was swapped out stays there for good, and is read again."""


class BlockManager:
    def open(self, id, ids):
        demand(id not in self.tables, f"sequence {id} is open already")
        self.tables[id], self.held[id] = [], 0
        if self.prefix is not None:
            self.held[id], blocks = self.prefix.match(ids[:-1])
            self.tables[id] = list(blocks)
            self.hold(blocks)
        return self.held[id]
