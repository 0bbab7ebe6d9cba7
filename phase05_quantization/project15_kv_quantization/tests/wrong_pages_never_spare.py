"""Never gives the place of a closed page back: open pages grow without end."""


class QuantizedStore:
    def settle(self, id, n):
        for page in self.tables[id][: n // self.size]:
            if page in self.floating:
                place = self.floating.pop(page)
                for layer in self.layers:
                    layer.close(page, place)
                self.coded.add(page)
