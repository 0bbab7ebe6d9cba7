"""The index is not told where the last entry went."""


class IndexedHeap:
    def remove(self, item):
        if item not in self.place:
            return False
        i, last = self.place.pop(item), self.entries.pop()
        if i < len(self.entries):
            self.entries[i] = last
            self.sink(i)
            self.rise(i)
        return True
