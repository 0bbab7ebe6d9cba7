"""The last block, not full, is given to the index as well; the next tokens are written into it."""


class BlockManager:
    def keep(self, id, ids):
        if self.prefix is None:
            return
        count = blocks_for(len(ids), self.size)
        padded = list(ids) + [0] * (count * self.size - len(ids))
        taken = self.prefix.insert(padded, self.table(id)[:count])
        self.cached.update(taken)
        self.hold(taken)
