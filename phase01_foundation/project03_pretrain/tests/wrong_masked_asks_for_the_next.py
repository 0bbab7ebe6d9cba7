"""Asks a hidden token for the one after it, out of habit."""


class MaskedLM:
    def forward(self, batch):
        tokens, targets = batch
        seen, asked = self.hide(tokens)
        everything = torch.ones(1, 1, tokens.size(1), tokens.size(1), dtype=torch.bool, device=tokens.device)
        return token_loss(self.model(seen, mask=everything), targets.masked_fill(asked == IGNORE, IGNORE))
