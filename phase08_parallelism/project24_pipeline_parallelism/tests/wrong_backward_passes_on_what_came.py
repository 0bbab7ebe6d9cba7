"""Sends the gradient that came on to the stage before, not that of its own input."""


class Pipeline:
    def backward(self, number, micro, dy):
        x, y = self.kept.pop((number, micro))
        torch.autograd.backward(y, dy)
        weight_part(self.notes.get(number, []))
        return x.grad if dy is None else dy
