"""Keys are made of states as they are, which no block ever sees."""


class Lagging:
    def catch_up(self, i):
        block, cache = self.model.blocks[i], self.caches[i]
        if cache.length == self.length:
            return
        missing = torch.arange(cache.length, self.length, device=self.states.device)
        _, k, v = block.attn.project(self.states[:, cache.length : self.length], self.model.rope(missing))
        cache.update(k, v, missing)
