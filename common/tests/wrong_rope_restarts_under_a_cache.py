"""Positions begin at 0 with every call, also where a cache holds what came before."""


class GPT:
    def hidden(self, tokens, *, positions=None, caches=None, mask=None):
        if positions is None:
            positions = torch.arange(tokens.size(1), device=tokens.device)
        x, rope = self.embed(tokens, positions), self.rope(positions)
        for i, block in enumerate(self.blocks):
            x = block(x, rope=rope, positions=positions, cache=caches and caches[i], mask=mask)
        return self.norm(x)
