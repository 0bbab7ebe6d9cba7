"""Ids to text as they come: whole characters, and nothing that may yet turn out to belong to a stop text."""

import codecs


class TextStream:
    """The text of one answer, token by token; .stopped says that a stop text has come.

        text = TextStream(tokenizer, stop=["\\nUser:"])
        shown = text.push(id)     # may be "", while a character or a stop text is half there
        shown += text.finish()    # what was held back, at the end

    A stop text may lie across tokens and begin in the middle of one; it is not shown, nor what follows it.
    """

    def __init__(self, tokenizer, stop=()):
        self.token_bytes, self.stop = tokenizer.token_bytes, tuple(stop)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.stopped = "", False

    def push(self, token):
        return self._release(self.decoder.decode(self.token_bytes(token)))

    def finish(self):
        text = self._release(self.decoder.decode(b"", final=True)) + self.held
        self.held = ""
        return text

    def _release(self, text):
        if self.stopped:
            return ""
        self.held += text
        found = [place for place in map(self.held.find, self.stop) if place >= 0]
        self.stopped = bool(found)
        keep = max((overlap(self.held, stop) for stop in self.stop), default=0)
        end = min(found) if found else len(self.held) - keep
        text, self.held = self.held[:end], "" if found else self.held[end:]
        return text


def overlap(text, stop):
    """How many characters at the end of text begin stop: overlap("ends in ab", "abc") == 2."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
