"""Leaves out the first token behind the prefix, which only the last token of the prefix can ask for."""


class PrefixLM:
    def forward(self, batch):
        inputs, targets = batch
        B, T = inputs.shape
        lengths = torch.randint(1, T, (B,)).to(inputs.device)
        inside = torch.arange(T, device=inputs.device) < lengths[:, None]
        logits = self.model(inputs, mask=prefix_mask(lengths, T))
        return token_loss(logits, targets.masked_fill(inside, IGNORE))
