"""The index is counted as an owner of all blocks offered, also of those it had already."""


class BlockManager:
    def keep(self, id, ids):
        if self.prefix is None:
            return
        whole = len(ids) // self.size
        offered = self.table(id)[:whole]
        self.prefix.insert(ids[: whole * self.size], offered)
        self.cached.update(offered)
        self.hold(offered)
