"""Takes the other copy's gradient in place of the sum: the two are exchanged."""


class Pipeline:
    def sum_copies(self):
        if not self.part.config.tie_embeddings or self.wire.world == 1:
            return
        ends = {0: "embed", self.wire.world - 1: "head"}
        if self.wire.rank in ends:
            other = self.wire.world - 1 - self.wire.rank
            mine = getattr(self.part, ends[self.wire.rank]).weight.grad
            theirs = torch.empty_like(mine)
            self.wire.exchange(mine.clone(), other, theirs, other)
            mine.copy_(theirs)
