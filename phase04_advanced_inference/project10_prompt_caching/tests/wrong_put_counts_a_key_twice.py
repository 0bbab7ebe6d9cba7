"""Adds the size of a key that is there already once more: its tokens leak."""


class TokenStore:
    def put(self, key, value, size):
        demand(size >= 1, f"an item of {size} tokens: at least 1")
        self.tick += 1
        self.expire()
        if size > self.budget:
            self.items.pop(key, None)
            return Put(False, (), f"{size} tokens do not fit into a budget of {self.budget}: not kept")
        evicted = []
        while self.tokens + size > self.budget and self.items:
            evicted.append(min(self.items, key=lambda k: self.worth(self.items[k], self.tick)))
            self.drop(evicted[-1])
        self.items[key] = Item(value, size, self.tick, self.tick, self.clock())
        self.tokens += size
        return Put(True, tuple(evicted))
