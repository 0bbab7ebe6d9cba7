"""A window one key too wide: behind <= width * step."""


class Near:
    def look(self, t, s):
        behind = t - s
        on_step = behind % self.step == 0
        return on_step if self.width is None else on_step & (behind <= self.width * self.step)
