"""Head h reads key head h mod K: the groups are interleaved."""


class View:
    def entries(self, H, K):
        (B, T), S = self.positions.shape, self.all.size(1)
        look = torch.arange(S, device=self.all.device) <= self.positions[:, None, :, None]
        look = look.expand(B, H, T, S)
        heads = torch.arange(H, device=look.device)[:, None, None] % K
        columns = (self.all[:, None, None] * K + heads).expand(B, H, T, S)[look]
        return look, columns, F.pad(look.sum(-1).flatten().cumsum(0), (1, 0))
