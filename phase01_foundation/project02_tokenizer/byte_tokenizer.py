"""Rung 1: bytes. Any text is a row of bytes, and a byte is a number below 256: a tokenizer that has nothing
to learn.

It needs no training, knows every script and loses nothing, and it makes long rows: one id for each letter
of English, three for each of Japanese. The rungs above keep its ids (byte b is id b, for ever) and add ids
for what often stands together.
"""

from common.errors import UserError
from common.exercise import exercise

UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()  # what an id that does not exist decodes to: U+FFFD


def to_bytes(text):
    """UTF-8. A lone surrogate (half a character, as broken decoders leave it) has no UTF-8: UserError."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise UserError(
            f"character {error.start} of the text is {code}, a lone surrogate, which no UTF-8 file can hold; "
            "read the file again with the right encoding, or with errors='replace'"
        ) from None


def join_bytes(vocab, ids, errors):
    """The bytes of the ids. An id that `vocab` does not hold is U+FFFD; with errors="strict" a UserError."""
    if errors == "strict":
        for i in ids:
            if i not in vocab:
                raise UserError(f"id {i} does not exist: this tokenizer has {len(vocab)} ids")
    return b"".join(vocab.get(i, UNKNOWN) for i in ids)


def to_text(data, errors):
    """The text of UTF-8 bytes. Bytes that spell no character (half of one, cut off) are U+FFFD; "strict": a
    UserError."""
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} of the ids is in no character: {error.reason}") from None


class ByteTokenizer:
    """256 ids, one for each byte."""

    def __init__(self):
        self.vocab = {b: bytes([b]) for b in range(256)}

    @exercise
    def encode(self, text):
        """str -> list of ids in 0..255, one for each byte of the text's UTF-8: "é" -> [195, 169]."""
        return list(to_bytes(text))

    @exercise
    def decode(self, ids, errors="replace"):
        """list of ids -> str, the inverse of encode: [195, 169] -> "é".

        An id above 255, or bytes that spell no character ([195] alone), give U+FFFD; errors="strict" makes
        both a UserError. `join_bytes` and `to_text` above do one half each.
        """
        return to_text(join_bytes(self.vocab, ids, errors), errors)
