"""Blocks are taken one by one until there are none: a refusal leaves some of them behind."""


class BlockManager:
    def reserve(self, id, n):
        table, held, need = self.table(id), self.held[id], blocks_for(n, self.size)
        if n > held:
            if held % self.size > 0 and self.refs[table[-1]] > 1:
                if not self.make_free(1):
                    return False
                source, table[-1] = table[-1], self.take()
                self.copy(source, table[-1])
                self.drop([source])
            while len(table) < need:
                if not self.make_free(1):
                    return False
                table.append(self.take())
        self.drop(table[need:])
        del table[need:]
        self.held[id] = n
        return True
