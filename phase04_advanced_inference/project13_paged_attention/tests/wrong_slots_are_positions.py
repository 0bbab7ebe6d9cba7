"""As if blocks lay side by side behind a row's first one."""


class View:
    def slots(self, positions):
        return self.tables[:, :1] * self.size + positions
