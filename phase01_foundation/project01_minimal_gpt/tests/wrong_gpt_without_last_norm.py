"""Forgets the norm before the head."""


class GPT:
    def forward(self, tokens):
        if tokens.size(1) > self.config.max_seq_len:
            raise ValueError(f"{tokens.size(1)} tokens, but the context is {self.config.max_seq_len} long")
        x = self.drop(self.embed(tokens) + self.positions.weight[: tokens.size(1)])
        for block in self.blocks:
            x = block(x)
        return self.head(x)
