"""Computes the weights' part at once: nothing is left for W, and nothing fills the bubble."""


class Pipeline:
    def input_part(self, number, micro, dy):
        x, y = self.kept[number, micro]
        torch.autograd.backward(y, dy)
        weight_part(self.notes[number])
        self.kept[number, micro] = []
        return x.grad
