"""Answers with what the ttl has voided."""


class TokenStore:
    def get(self, key):
        self.tick += 1
        item = self.items.get(key)
        if item is None:
            return None
        item.weight = 1 + frequent(item, self.tick)
        item.used, item.hits = self.tick, item.hits + 1
        return item.value
