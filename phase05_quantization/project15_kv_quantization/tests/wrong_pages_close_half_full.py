"""Closes the page that is still being written."""


class QuantizedStore:
    def settle(self, id, n):
        for page in self.tables[id][: -(-n // self.size)]:
            if page in self.floating:
                place = self.floating.pop(page)
                for layer in self.layers:
                    layer.close(page, place)
                self.spare.append(place)
                self.coded.add(page)
