"""All are turned to the place of the token that is there now."""


class Lagging:
    def catch_up(self, i):
        block, cache = self.model.blocks[i], self.caches[i]
        if cache.length == self.length:
            return
        missing = torch.arange(cache.length, self.length, device=self.states.device)
        x = block.norm_attn(self.states[:, cache.length : self.length])
        _, k, v = block.attn.project(x, self.model.rope(torch.full_like(missing, self.length)))
        cache.update(k, v, missing)
