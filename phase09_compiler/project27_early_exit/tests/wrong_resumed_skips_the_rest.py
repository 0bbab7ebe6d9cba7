"""Only what the draft did not compute climbs on; its own states are taken for the last ones."""


class Resumed:
    def hidden(self, tokens, *, positions, caches, mask):
        model = self.model
        states = [self.draft.states.get(row, ()) for row in caches[0].rows]
        known = min(map(len, states))
        where = {"positions": positions[:, known:], "mask": mask[:, :, known:]}
        x = model.embed(tokens[:, known:], where["positions"])
        x = climb(model.blocks, x, caches, rope=model.rope(where["positions"]), **where)
        if known:
            x = torch.cat((torch.stack([row[:known] for row in states]), x), 1)
        return model.norm(x)
