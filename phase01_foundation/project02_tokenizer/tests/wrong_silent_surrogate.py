"""Replaces what has no bytes by a question mark, so that the text does not come back."""


class ByteTokenizer:
    def encode(self, text):
        return list(text.encode("utf-8", errors="replace"))
