"""Looks up what was kept and leaves it there: as much memory as GPipe, with any schedule."""


class Pipeline:
    def backward(self, number, micro, dy):
        x, y = self.kept[number, micro]
        torch.autograd.backward(y, dy)
        weight_part(self.notes.get(number, []))
        return x.grad
