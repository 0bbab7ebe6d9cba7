"""Keeps slices of the request's caches: the next token that it writes, or frees, is everybody's."""


class PrefixCache:
    def keep(self, ids, caches):
        block = self.index.block
        end = len(ids) // block * block
        if end > self.budget:
            return False
        n = self.index.hold(ids)
        self.index.evict(max(0, self.index.tokens + end - n - self.budget))
        self.index.release(ids[:n])
        if self.index.tokens + end - n > self.budget:
            return False
        layers = torch.stack([x[0] for cache in caches for x in (cache.k, cache.v)])
        new = [layers[:, :, i : i + block] for i in range(n, end, block)]
        self.index.insert(ids[:end], self.index.match(ids[:n])[1] + new)
        return True
