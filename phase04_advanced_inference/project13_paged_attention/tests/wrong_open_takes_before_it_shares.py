"""Blocks for all of the prompt are taken first; those that then turn out to be known are leaked."""


class BlockManager:
    def open(self, id, ids):
        demand(id not in self.tables, f"sequence {id} is open already")
        self.tables[id], self.held[id] = [], 0
        n = self.away.get(id, 0)
        if n and n < len(ids) and self.reserve(id, n):
            self.load(id, self.tables[id])
            del self.away[id]
            return n
        self.forget(id)
        if self.prefix is not None and self.make_free(blocks_for(len(ids), self.size)):
            own = [self.take() for _ in range(blocks_for(len(ids), self.size))]
            self.held[id], blocks = self.prefix.match(ids[:-1])
            self.tables[id] = [*blocks, *own[len(blocks) :]]
            self.hold(blocks)
        return self.held[id]
