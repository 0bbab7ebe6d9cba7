"""Evicts everything for an item that can never fit, and then holds it all the same."""


class TokenStore:
    def put(self, key, value, size):
        demand(size >= 1, f"an item of {size} tokens: at least 1")
        self.tick += 1
        self.expire()
        if key in self.items:
            self.drop(key)
        evicted = []
        while self.items and self.tokens + size > self.budget:
            evicted.append(min(self.items, key=lambda k: self.worth(self.items[k], self.tick)))
            self.drop(evicted[-1])
        self.items[key] = Item(value, size, self.tick, self.tick, self.clock())
        self.tokens += size
        return Put(True, tuple(evicted))
