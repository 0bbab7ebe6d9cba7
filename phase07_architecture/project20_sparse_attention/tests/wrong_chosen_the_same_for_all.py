"""The first ones for everybody: the seed is forgotten."""


class Random:
    def chosen(self, block):
        return torch.arange(block)[: self.count]
