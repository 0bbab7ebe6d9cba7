"""Gives back the caches that it was given."""


class PastStep:
    def forward(self, tokens, *past):
        T, P = tokens.size(1), past[0].size(2)
        positions = P + torch.arange(T)
        mask = positions[:, None] >= torch.arange(P + T)
        caches = [Past(k, v) for k, v in zip(past[::2], past[1::2], strict=True)]
        return self.model(tokens, positions=positions, caches=caches, mask=mask), *past
