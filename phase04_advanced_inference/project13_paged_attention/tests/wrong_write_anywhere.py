"""Positions are not checked: rows at one place are taken for rows at many."""


class PagedCache:
    def write(self, k, v, positions):
        blocks, places = self.view.new
        self.k[blocks, :, places] = k.transpose(1, 2)
        self.v[blocks, :, places] = v.transpose(1, 2)
