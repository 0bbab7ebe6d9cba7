"""Positions are not checked: rows at one place are taken for rows at many."""


class PagedCache:
    def write(self, k, v, positions):
        self.k[self.view.new] = k.transpose(1, 2)
        self.v[self.view.new] = v.transpose(1, 2)
