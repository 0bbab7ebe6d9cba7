"""Does not hand on positions and mask: packed conversations read one another."""


class AnswerLoss:
    def forward(self, batch):
        counts = batch.targets != IGNORE
        logits = self.model.head(self.model.hidden(batch.tokens)[counts])
        return token_loss(logits[None], batch.targets[counts][None])
