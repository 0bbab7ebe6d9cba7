"""Drawn with replacement: a block may come twice."""


class Random:
    def chosen(self, block):
        draw = torch.Generator().manual_seed(1_000_003 * self.seed + block)
        return torch.randint(max(block, 1), (min(self.count, block),), generator=draw)
