"""Quotient and remainder change places."""


class View:
    def locate(self, positions, rows=slice(None)):
        entry = (positions % self.size).clamp(max=self.tables.size(1) - 1)
        return self.tables[rows].gather(1, entry), positions // self.size % self.size
