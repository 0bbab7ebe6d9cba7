"""Masks nothing: a prompt looks at what comes after it."""


class PastStep:
    def forward(self, tokens, *past):
        T, P = tokens.size(1), past[0].size(2)
        positions = P + torch.arange(T)
        mask = torch.ones(T, P + T, dtype=torch.bool)
        caches = [Past(k, v) for k, v in zip(past[::2], past[1::2], strict=True)]
        logits = self.model(tokens, positions=positions, caches=caches, mask=mask)
        return logits, *(x for cache in caches for x in (cache.k, cache.v))
