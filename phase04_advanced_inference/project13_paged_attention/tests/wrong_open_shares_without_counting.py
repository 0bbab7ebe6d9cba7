"""What is shared gets no owner more: the first to leave frees it for all."""


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
            self.held[id], blocks = self.prefix.match(ids[:-1])
            self.tables[id] = list(blocks)
        return self.held[id]
