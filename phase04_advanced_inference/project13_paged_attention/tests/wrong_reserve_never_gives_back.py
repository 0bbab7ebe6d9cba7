"""Who goes back keeps the blocks behind: room for guesses that proved wrong leaks until the end."""


class BlockManager:
    def reserve(self, id, n):
        table, held, need = self.table(id), self.held[id], blocks_for(n, self.size)
        if n > held:
            torn = held % self.size > 0 and self.refs[table[-1]] > 1
            if not self.make_free(max(0, need - len(table)) + torn):
                return False
            if torn:
                source, table[-1] = table[-1], self.take()
                self.copy(source, table[-1])
                self.drop([source])
            table += [self.take() for _ in range(need - len(table))]
        self.held[id] = n
        return True
