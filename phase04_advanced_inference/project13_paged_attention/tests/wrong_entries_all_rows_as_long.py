"""Every row sees as much as the longest: the last token of a short one counts many times."""


class View:
    def entries(self, H, K):
        rows, s = self.pieces
        reach = self.positions[rows]
        blocks, places = self.locate(s.minimum(reach.amax(1, keepdim=True)), rows)
        heads = torch.arange(H, device=s.device)[:, None] // (H // K)
        columns = (blocks[:, None] * K + heads) * self.size + places[:, None]
        return columns, (s[:, None] <= self.positions.amax(0)[:, None])[:, None]
