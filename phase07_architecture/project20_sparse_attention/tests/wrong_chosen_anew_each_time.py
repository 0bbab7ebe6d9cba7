"""Drawn from the state of torch: other blocks on the way back than on the way there."""


class Random:
    def chosen(self, block):
        return torch.randperm(block)[: self.count]
