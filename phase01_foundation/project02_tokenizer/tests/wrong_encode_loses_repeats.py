"""Encodes the different pieces of a text, each once, and forgets how often and where they stood."""


class BPE:
    def encode(self, text, allowed_special=()):
        may, ids = allowed(self.special, allowed_special), []
        for part in split_special(text, may):
            if part in may:
                ids.append(self.special[part])
            else:
                for piece in dict.fromkeys(self.split(part)):
                    ids += merge_piece(to_bytes(piece), self.ranks)
        return ids
