"""All get the keys of the token that left last."""


class Lagging:
    def catch_up(self, i):
        block, cache = self.model.blocks[i], self.caches[i]
        if cache.length == self.length:
            return
        missing = torch.arange(cache.length, self.length, device=self.states.device)
        x = block.norm_attn(self.states[:, self.length - 1 : self.length]).expand(-1, len(missing), -1)
        _, k, v = block.attn.project(x, self.model.rope(missing))
        cache.update(k, v, missing)
