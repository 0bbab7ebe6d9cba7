"""What the token left with is not kept, so keys are made of whatever stood there."""


class Lagging:
    def step(self, tokens, rule):
        model, positions = self.model, torch.tensor([self.length], device=tokens.device)
        x, rope, top = model.embed(tokens, positions), model.rope(positions), len(model.blocks)
        rule.begin()
        for n, block in enumerate(model.blocks, 1):
            self.catch_up(n - 1)
            x = block(x, rope=rope, positions=positions, cache=self.caches[n - 1])
            look = Look(model, n, x)
            if n == top or (rule.asked(model, n) and rule(look).all()):
                break
        self.length += 1
        return look.logits[:, -1], n
