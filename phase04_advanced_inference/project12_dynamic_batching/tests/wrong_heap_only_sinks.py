"""What takes the free place only sinks, though it may have to rise."""


class IndexedHeap:
    def remove(self, item):
        if item not in self.place:
            return False
        i, last = self.place.pop(item), self.entries.pop()
        if i < len(self.entries):
            self.entries[i], self.place[last[1]] = last, i
            self.sink(i)
        return True
