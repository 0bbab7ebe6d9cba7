"""A prompt that is known to its last token: nothing is left to feed, so no logits say what follows."""


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
        if self.prefix is not None:
            self.held[id], blocks = self.prefix.match(ids)
            self.tables[id] = list(blocks)
            self.hold(blocks)
        return self.held[id]
