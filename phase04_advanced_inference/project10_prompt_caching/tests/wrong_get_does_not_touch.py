"""A hit leaves the item as old as it was: first in, first out."""


class TokenStore:
    def get(self, key):
        self.tick += 1
        self.expire()
        item = self.items.get(key)
        return None if item is None else item.value
