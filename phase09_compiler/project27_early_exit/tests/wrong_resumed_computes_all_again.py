"""The states of the draft are not used."""


class Resumed:
    def hidden(self, tokens, *, positions, caches, mask):
        model, n = self.model, self.draft.n
        states = [self.draft.states.get(row, ()) for row in caches[0].rows]
        known = 0
        where = {"positions": positions[:, known:], "mask": mask[:, :, known:]}
        x = model.embed(tokens[:, known:], where["positions"])
        x = climb(model.blocks[:n], x, caches[:n], rope=model.rope(where["positions"]), **where)
        if known:
            x = torch.cat((torch.stack([row[:known] for row in states]), x), 1)
        where = {"positions": positions, "mask": mask}
        return model.norm(climb(model.blocks[n:], x, caches[n:], rope=model.rope(positions), **where))
