"""Divides by all tokens of the batch: the more padding, the smaller the loss and the step."""


class AnswerLoss:
    def forward(self, batch):
        counts = batch.targets != IGNORE
        hidden = self.model.hidden(batch.tokens, positions=batch.positions, mask=batch.mask)
        loss = token_loss(self.model.head(hidden[counts])[None], batch.targets[counts][None])
        return loss * counts.sum() / counts.numel()
