"""Makes codes of the newest tokens, and keeps the oldest as they came."""


class QuantizedCache:
    def settle(self):
        G, held = self.form.group, self._length - self.rounded
        n = max(0, held - self.form.window) // G
        if n:
            new = slice(held - n * G, held)
            k, v = key_rows(self.k[:, :, new], G), value_rows(self.v[:, :, new], self.g)
            self.keys.table[:, :, self.closed : self.closed + n] = quantize(k, self.form.bits).table
            self.values.table[:, :, self.rounded : self.rounded + n * G] = quantize(v, self.form.bits).table
            self.closed += n
            self.k, self.v = (moved(x[:, :, : held - n * G], self.capacity) for x in (self.k, self.v))
