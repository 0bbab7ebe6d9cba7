"""Positions and mask of the batch are not passed on."""


class RewardModel:
    def forward(self, tokens, ends, positions=None, mask=None):
        hidden = self.model.hidden(tokens)  # (R, T, C)
        return self.score(hidden.flatten(0, 1)[ends]).squeeze(-1)  # (n,)
