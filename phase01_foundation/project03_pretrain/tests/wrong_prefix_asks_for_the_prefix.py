"""Also asks for tokens of the prefix, which are in plain view."""


class PrefixLM:
    def forward(self, batch):
        inputs, targets = batch
        B, T = inputs.shape
        lengths = torch.randint(1, T, (B,)).to(inputs.device)
        return token_loss(self.model(inputs, mask=prefix_mask(lengths, T)), targets)
