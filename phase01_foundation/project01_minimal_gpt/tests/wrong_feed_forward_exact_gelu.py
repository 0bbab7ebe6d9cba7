"""Uses the exact GELU, not GPT-2's approximation by tanh: nearly right, and so hard to find."""


class FeedForward:
    def forward(self, x):
        return self.w_down(F.gelu(self.w_up(x)))
