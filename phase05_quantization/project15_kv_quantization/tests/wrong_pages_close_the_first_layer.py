"""Makes codes in the first layer only."""


class QuantizedStore:
    def settle(self, id, n):
        for page in self.tables[id][: n // self.size]:
            if page in self.floating:
                place = self.floating.pop(page)
                self.layers[0].close(page, place)
                self.spare.append(place)
                self.coded.add(page)
