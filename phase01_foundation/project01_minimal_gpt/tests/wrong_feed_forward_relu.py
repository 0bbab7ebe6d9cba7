"""Uses ReLU, as in 2017, where GPT-2 has GELU."""


class FeedForward:
    def forward(self, x):
        return self.w_down(F.relu(self.w_up(x)))
