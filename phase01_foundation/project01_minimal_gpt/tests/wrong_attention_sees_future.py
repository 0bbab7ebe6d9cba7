"""Never passes the causal flag on as True: every token sees what it should guess."""


class Attention:
    def forward(self, x):
        y, _ = attend(*self.project(x), causal=False)
        return self.wo(merge_heads(y))
