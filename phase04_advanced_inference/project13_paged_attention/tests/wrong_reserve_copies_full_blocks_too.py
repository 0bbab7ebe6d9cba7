"""The last block is copied whenever others have it, even if it is full and will not be written."""


class BlockManager:
    def reserve(self, id, n):
        table, held, need = self.table(id), self.held[id], blocks_for(n, self.size)
        if n > held:
            torn = bool(table) and self.refs[table[-1]] > 1
            if not self.make_free(need - len(table) + torn):
                return False
            if torn:
                source, table[-1] = table[-1], self.take()
                self.copy(source, table[-1])
                self.drop([source])
            table += [self.take() for _ in range(need - len(table))]
        self.drop(table[need:])
        del table[need:]
        self.held[id] = n
        return True
