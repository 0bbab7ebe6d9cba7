"""Keeps the list that it then empties: W finds nothing, and weights have no gradient."""


class Pipeline:
    def input_part(self, number, micro, dy):
        x, y = self.kept[number, micro]
        torch.autograd.backward(y, dy)
        self.kept[number, micro] = self.notes[number]
        self.notes[number].clear()
        return x.grad
