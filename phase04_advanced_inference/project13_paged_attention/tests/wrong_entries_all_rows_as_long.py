"""Every row sees as much as the longest: the last token of a short one counts many times."""


class View:
    def entries(self, H, K):
        (B, T), S = self.positions.shape, self.all.size(1)
        look = torch.arange(S, device=self.all.device) <= self.positions.amax(0)[None, None, :, None]
        look = look.expand(B, H, T, S)
        heads = torch.arange(H, device=look.device)[:, None, None] // (H // K)
        columns = (self.all[:, None, None] * K + heads).expand(B, H, T, S)[look]
        return look, columns, F.pad(look.sum(-1).flatten().cumsum(0), (1, 0))
