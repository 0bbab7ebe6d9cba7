"""Behind a row's end the rest of its block is read: what another left there, NaN perhaps."""


class View:
    def entries(self, H, K):
        rows, s = self.pieces
        reach = self.positions[rows]
        blocks, places = self.locate(s.clamp(max=self.tables.size(1) * self.size - 1), rows)
        heads = torch.arange(H, device=s.device)[:, None] // (H // K)
        columns = (blocks[:, None] * K + heads) * self.size + places[:, None]
        return columns, (s[:, None] <= reach[..., None])[:, None]
