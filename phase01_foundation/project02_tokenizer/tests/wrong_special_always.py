"""Reads special tokens wherever a text spells them: a user can end the conversation for the assistant."""


class RegexBPE:
    def encode(self, text, allowed_special=()):
        allowed(self.special, allowed_special)
        ids = []
        for part in split_special(text, set(self.special)):
            if part in self.special:
                ids.append(self.special[part])
            else:
                for piece in self.pattern.findall(part):
                    ids += self.merge_all(list(to_bytes(piece)))
        return ids
