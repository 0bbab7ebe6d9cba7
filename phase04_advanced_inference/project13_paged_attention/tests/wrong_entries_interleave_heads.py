"""Head h reads key head h mod K: the groups are interleaved."""


class View:
    def entries(self, H, K):
        rows, s = self.pieces
        reach = self.positions[rows]
        blocks, places = self.locate(s.minimum(reach.amax(1, keepdim=True)), rows)
        heads = torch.arange(H, device=s.device)[:, None] % K
        columns = (blocks[:, None] * K + heads) * self.size + places[:, None]
        return columns, (s[:, None] <= reach[..., None])[:, None]
