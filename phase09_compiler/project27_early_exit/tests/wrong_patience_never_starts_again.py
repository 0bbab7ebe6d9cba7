"""Who says something else begins at the count it had."""


class Patience:
    def __call__(self, look):
        best = look.logits.argmax(-1)
        alike = torch.ones_like(best)
        if self.before is not None:
            last, count = self.before
            alike = torch.where(best == last, count + 1, count)
        self.before = best, alike
        return alike >= self.ways
