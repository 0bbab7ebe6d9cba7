"""Never empties the stage's list: each W does those before it again."""


class Pipeline:
    def input_part(self, number, micro, dy):
        x, y = self.kept[number, micro]
        torch.autograd.backward(y, dy)
        self.kept[number, micro] = self.notes[number].copy()
        return x.grad
