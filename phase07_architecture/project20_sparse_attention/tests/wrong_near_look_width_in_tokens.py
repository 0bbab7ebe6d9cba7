"""Takes the width for tokens and not for keys: a dilated window sees fewer of them."""


class Near:
    def look(self, t, s):
        behind = t - s
        on_step = behind % self.step == 0
        return on_step if self.width is None else on_step & (behind < self.width)
