"""Does not hold the beginning while making room, so it may go for its own end."""


class PrefixCache:
    def keep(self, ids, caches):
        block = self.index.block
        end = len(ids) // block * block
        if end > self.budget:
            return False
        n = len(self.index.walk(ids)) * block
        self.index.evict(max(0, self.index.tokens + end - n - self.budget))
        n = len(self.index.walk(ids)) * block
        if self.index.tokens + end - n > self.budget:
            return False
        layers = [x for cache in caches for x in (cache.k, cache.v)]
        new = [torch.stack([x[0, :, i : i + block] for x in layers]) for i in range(n, end, block)]
        self.index.insert(ids[:end], self.index.match(ids[:n])[1] + new)
        return True
