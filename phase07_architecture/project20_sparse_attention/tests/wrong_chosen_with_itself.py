"""The block itself, and so one fewer of the earlier ones."""


class Random:
    def chosen(self, block):
        draw = torch.Generator().manual_seed(1_000_003 * self.seed + block)
        return torch.randperm(block + 1, generator=draw)[: self.count]
