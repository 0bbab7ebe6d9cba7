"""Decodes every byte by itself, so that no character of two bytes survives."""


class ByteTokenizer:
    def decode(self, ids, errors="replace"):
        return "".join(to_text(join_bytes(self.vocab, [i], errors), errors) for i in ids)
