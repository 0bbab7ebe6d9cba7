"""Gives keys a scale for each token's stretch of channels: a group's rows are filled the other way round."""


class QuantizedCache:
    def settle(self):
        G, held = self.form.group, self._length - self.rounded
        n = max(0, held - self.form.window) // G
        if n:
            k = key_rows(self.k[:, :, : n * G], G)
            k = k.transpose(-2, -1).reshape(k.shape)
            v = value_rows(self.v[:, :, : n * G], self.g)
            self.keys.table[:, :, self.closed : self.closed + n] = quantize(k, self.form.bits).table
            self.values.table[:, :, self.rounded : self.rounded + n * G] = quantize(v, self.form.bits).table
            self.closed += n
            self.k, self.v = (moved(x[:, :, n * G : held], self.capacity) for x in (self.k, self.v))
