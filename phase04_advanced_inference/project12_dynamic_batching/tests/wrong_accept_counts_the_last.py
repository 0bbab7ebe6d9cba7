"""Counts the last id as read, though nobody fed it."""


class Sequence:
    def accept(self, ids, logprobs):
        pieces, known = [], len(self.ids)
        for id, logprob in zip(ids, logprobs, strict=True):
            self.ids.append(id)
            pieces.append(self.row.push(id, logprob))
            if pieces[-1].finish:
                break
        self.computed, self.guesses = known + len(pieces), []
        return pieces, pieces[-1].finish
