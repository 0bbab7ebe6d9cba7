"""Rejected guesses stay counted as read: no rollback."""


class Sequence:
    def accept(self, ids, logprobs):
        pieces = []
        for id, logprob in zip(ids, logprobs, strict=True):
            self.ids.append(id)
            pieces.append(self.row.push(id, logprob))
            if pieces[-1].finish:
                break
        self.guesses = []
        return pieces, pieces[-1].finish
