"""Makes codes of every whole group, the newest tokens too."""


class QuantizedCache:
    def settle(self):
        G, held = self.form.group, self._length - self.rounded
        n = held // G
        if n and self.closed + n <= self.keys.table.size(2):
            k, v = key_rows(self.k[:, :, : n * G], G), value_rows(self.v[:, :, : n * G], self.g)
            self.keys.table[:, :, self.closed : self.closed + n] = quantize(k, self.form.bits).table
            self.values.table[:, :, self.rounded : self.rounded + n * G] = quantize(v, self.form.bits).table
            self.closed += n
            self.k, self.v = (moved(x[:, :, n * G : held], self.capacity) for x in (self.k, self.v))
