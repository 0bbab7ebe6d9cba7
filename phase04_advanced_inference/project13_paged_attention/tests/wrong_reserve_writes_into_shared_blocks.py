"""No copy on write: a fork's tokens land in the block that the other one reads."""


class BlockManager:
    def reserve(self, id, n):
        table, need = self.table(id), blocks_for(n, self.size)
        if not self.make_free(need - len(table)):
            return False
        table += [self.take() for _ in range(need - len(table))]
        self.drop(table[need:])
        del table[need:]
        self.held[id] = n
        return True
