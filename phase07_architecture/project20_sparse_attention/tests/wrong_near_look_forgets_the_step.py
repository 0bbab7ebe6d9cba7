"""Sees every key of the window, also those between the steps."""


class Near:
    def look(self, t, s):
        behind = t - s
        return behind < (behind.max() + 1 if self.width is None else self.width * self.step)
