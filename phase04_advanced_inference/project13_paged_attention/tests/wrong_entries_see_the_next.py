"""A query sees one position too many."""


class View:
    def entries(self, H, K):
        rows, s = self.pieces
        reach = self.positions[rows]
        blocks, places = self.locate(s.minimum(reach.amax(1, keepdim=True)), rows)
        heads = torch.arange(H, device=s.device)[:, None] // (H // K)
        columns = (blocks[:, None] * K + heads) * self.size + places[:, None]
        return columns, (s[:, None] <= 1 + reach[..., None])[:, None]
