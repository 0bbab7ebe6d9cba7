"""Asks head 0 for the next token, which the model's own head says already."""


class MedusaLoss:
    def forward(self, batch):
        inputs, targets = batch
        model, T = self.frozen[0], targets.size(1)
        with torch.no_grad():
            hidden = model.hidden(inputs)
        x, losses = self.heads(hidden), []
        for i in range(min(x.size(2), T - 1)):
            logits = model.head(x[:, : T - i, i])
            losses.append(FADE**i * F.cross_entropy(logits.flatten(0, 1).float(), targets[:, i:].flatten()))
        return torch.stack(losses).mean()
