"""Turns by positions in the first stage only, as if that were part of the table."""


class Stage:
    def hidden(self, x):
        positions = arange(x.size(1), device=x.device)
        rope = self.rope(positions) if self.first else None
        x = self.embed(x, positions) if self.first else x
        for block in self.blocks.values():
            x = block(x, rope=rope, positions=positions)
        return self.norm(x) if self.last else x
