"""Counts the groups, but leaves the old floats where they are, in front of the window."""


class QuantizedCache:
    def settle(self):
        G, held = self.form.group, self._length - self.rounded
        n = max(0, held - self.form.window) // G
        if n:
            k, v = key_rows(self.k[:, :, : n * G], G), value_rows(self.v[:, :, : n * G], self.g)
            self.keys.table[:, :, self.closed : self.closed + n] = quantize(k, self.form.bits).table
            self.values.table[:, :, self.rounded : self.rounded + n * G] = quantize(v, self.form.bits).table
            self.closed += n
