"""The way out at hand is not counted: it waits once more than it was told."""


class Patience:
    def __call__(self, look):
        best = look.logits.argmax(-1)
        alike = torch.zeros_like(best)
        if self.before is not None:
            last, count = self.before
            alike = torch.where(best == last, count + 1, 0)
        self.before = best, alike
        return alike >= self.ways
