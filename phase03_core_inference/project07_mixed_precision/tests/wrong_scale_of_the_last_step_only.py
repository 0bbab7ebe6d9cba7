"""Looks at the last step and not at the history: one quiet step, and the next is cut off."""


class AmaxHistory:
    def scale(self, x):
        amax = x.detach().abs().max().item()
        largest = self.values[-1] if self.values else amax
        if amax < float("inf"):
            self.values.append(amax)
        return torch.finfo(self.dtype).max / largest if 0 < largest < float("inf") else 1.0
