"""The score is read one token early, where the answer is not whole yet."""


class RewardModel:
    def forward(self, tokens, ends, positions=None, mask=None):
        hidden = self.model.hidden(tokens, positions=positions, mask=mask)  # (R, T, C)
        return self.score(hidden.flatten(0, 1)[ends - 1]).squeeze(-1)  # (n,)
