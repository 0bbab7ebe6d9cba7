"""A heap that knows where everything is, so that whoever leaves the queue leaves it at once.

Came before: `heapq` pops the smallest in O(log n), and cannot take out of the middle: a cancelled request has
to be searched for, O(n), or stays as a ghost. New here: beside the heap, an index from item to place.

Williams 1964, "Algorithm 232: Heapsort", CACM 7:6 (the heap); the index is folklore.
"""

from common.exercise import exercise


class SortedList:
    """The naive queue: a list, sorted anew at each push. The text and the oracle."""

    def __init__(self):
        self.entries = []

    def push(self, item, key):
        self.remove(item)
        self.entries = sorted([*self.entries, (key, item)])

    def remove(self, item):
        found = [entry for entry in self.entries if entry[1] == item]
        self.entries = [entry for entry in self.entries if entry[1] != item]
        return bool(found)

    def peek(self):
        return self.entries[0][1] if self.entries else None

    def __len__(self):
        return len(self.entries)


class IndexedHeap:
    """Items (hashable) with keys (comparable), the smallest key first; each operation O(log n).

    `entries[i]` is (key, item), never larger than entries[2 i + 1] and entries[2 i + 2]; `place[item]` is i.
    """

    def __init__(self):
        self.entries, self.place = [], {}

    def __len__(self):
        return len(self.entries)

    def __contains__(self, item):
        return item in self.place

    def peek(self):
        """The item of the smallest key, or None. (Not `False`, and not 0: an item may be 0.)"""
        return self.entries[0][1] if self.entries else None

    def push(self, item, key):
        """Put an item in; one that is there already gets the new key."""
        self.remove(item)
        self.place[item] = len(self.entries)
        self.entries.append((key, item))
        self.rise(len(self.entries) - 1)

    @exercise
    def remove(self, item):
        """Take an item out, wherever it is: True, or False where it is not in. The rest stays a heap.

        The last entry takes the free place. It came from another branch, so it may have to sink or to rise.
        """
        if item not in self.place:
            return False
        i, last = self.place.pop(item), self.entries.pop()
        if i < len(self.entries):  # else it was the last one itself
            self.entries[i], self.place[last[1]] = last, i
            self.sink(i)
            self.rise(i)
        return True

    def exchange(self, i, j):
        """Two entries change places, and the index knows."""
        self.entries[i], self.entries[j] = self.entries[j], self.entries[i]
        self.place[self.entries[i][1]], self.place[self.entries[j][1]] = i, j

    def rise(self, i):
        """Up, while smaller than its parent."""
        while i and self.entries[i] < self.entries[(i - 1) // 2]:
            self.exchange(i, (i - 1) // 2)
            i = (i - 1) // 2

    def sink(self, i):
        """Down, while larger than the smaller of its children."""
        n = len(self.entries)
        while 2 * i + 1 < n:
            child = min(range(2 * i + 1, min(2 * i + 3, n)), key=self.entries.__getitem__)
            if self.entries[i] <= self.entries[child]:
                return
            self.exchange(i, child)
            i = child
