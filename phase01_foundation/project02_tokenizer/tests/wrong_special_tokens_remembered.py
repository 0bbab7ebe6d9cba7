"""Remembers special tokens as if they were pieces, and so reads them later where they are not allowed."""


class BPE:
    def encode(self, text, allowed_special=()):
        may, ids = allowed(self.special, allowed_special), []
        self.known |= {token: [i] for token, i in self.special.items() if token in may}
        for part in split_special(text, set(self.known) & set(self.special)):
            for piece in [part] if part in self.known else self.split(part):
                if piece not in self.known:
                    self.known[piece] = merge_piece(to_bytes(piece), self.ranks)
                ids += self.known[piece]
        return ids
