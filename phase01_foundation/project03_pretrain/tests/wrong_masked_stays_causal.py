"""Hides tokens, and still looks only back."""


class MaskedLM:
    def forward(self, batch):
        tokens, _ = batch
        seen, targets = self.hide(tokens)
        T = tokens.size(1)
        back = torch.ones(1, 1, T, T, dtype=torch.bool, device=tokens.device).tril()
        return token_loss(self.model(seen, mask=back), targets)
