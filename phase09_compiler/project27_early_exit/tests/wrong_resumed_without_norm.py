"""States as the last block leaves them."""


class Resumed:
    def hidden(self, tokens, *, positions, caches, mask):
        model, n = self.model, self.draft.n
        states = [self.draft.states.get(row, ()) for row in caches[0].rows]
        known = min(map(len, states))
        where = {"positions": positions[:, known:], "mask": mask[:, :, known:]}
        x = model.embed(tokens[:, known:], where["positions"])
        x = climb(model.blocks[:n], x, caches[:n], rope=model.rope(where["positions"]), **where)
        if known:
            x = torch.cat((torch.stack([row[:known] for row in states]), x), 1)
        where = {"positions": positions, "mask": mask}
        return climb(model.blocks[n:], x, caches[n:], rope=model.rope(positions), **where)
