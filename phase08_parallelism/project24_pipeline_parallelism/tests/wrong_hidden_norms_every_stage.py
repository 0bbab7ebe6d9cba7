"""Norms behind every stage, not behind the last one only."""


class Stage:
    def hidden(self, x):
        positions = arange(x.size(1), device=x.device)
        x, rope = self.embed(x, positions) if self.first else x, self.rope(positions)
        for block in self.blocks.values():
            x = block(x, rope=rope, positions=positions)
        return self.norm(x) if self.last else x * x.square().mean(-1, keepdim=True).rsqrt()
