"""One row of the batch is sure, and all leave."""


class Lagging:
    def step(self, tokens, rule):
        model, positions = self.model, torch.tensor([self.length], device=tokens.device)
        x, rope, top = model.embed(tokens, positions), model.rope(positions), len(model.blocks)
        rule.begin()
        for n, block in enumerate(model.blocks, 1):
            self.catch_up(n - 1)
            x = block(x, rope=rope, positions=positions, cache=self.caches[n - 1])
            look = Look(model, n, x)
            if n == top or (rule.asked(model, n) and rule(look).any()):
                break
        self.states[:, self.length] = x[:, 0]
        self.length += 1
        return look.logits[:, -1], n
