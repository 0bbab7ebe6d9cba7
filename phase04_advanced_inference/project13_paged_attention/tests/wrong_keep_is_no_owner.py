"""The index knows blocks that it does not own: they are given to others, and still found."""


class BlockManager:
    def keep(self, id, ids):
        if self.prefix is None:
            return
        whole = len(ids) // self.size
        self.cached.update(self.prefix.insert(ids[: whole * self.size], self.table(id)[:whole]))
