"""Leaves ids that do not exist out of the text, where nobody sees that they were there."""


class ByteTokenizer:
    def decode(self, ids, errors="replace"):
        return to_text(join_bytes(self.vocab, [i for i in ids if i in self.vocab], errors), errors)
