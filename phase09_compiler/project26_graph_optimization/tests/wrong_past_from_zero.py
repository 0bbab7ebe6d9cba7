"""Gives the new tokens the positions 0, 1, …, whatever came before."""


class PastStep:
    def forward(self, tokens, *past):
        T, P = tokens.size(1), past[0].size(2)
        positions = torch.arange(T)
        mask = P + positions[:, None] >= torch.arange(P + T)
        caches = [Past(k, v) for k, v in zip(past[::2], past[1::2], strict=True)]
        logits = self.model(tokens, positions=positions, caches=caches, mask=mask)
        return logits, *(x for cache in caches for x in (cache.k, cache.v))
