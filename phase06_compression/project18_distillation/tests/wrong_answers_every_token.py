"""Learns the questions too: every next token is a target."""


class AnswerKD:
    def forward(self, batch):
        targets = batch.tokens.roll(-1, 1)
        return self.of(batch.tokens, targets, positions=batch.positions, mask=batch.mask)
