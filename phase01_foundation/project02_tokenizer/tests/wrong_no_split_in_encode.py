"""Splits in training and forgets to split when it encodes."""


class RegexBPE:
    def encode(self, text, allowed_special=()):
        ids, may = [], allowed(self.special, allowed_special)
        for part in split_special(text, may):
            ids += [self.special[part]] if part in may else self.merge_all(list(to_bytes(part)))
        return ids
