"""Asks each token for itself, which it can see: the loss falls to zero and nothing is learned."""


class CausalLM:
    def forward(self, batch):
        inputs, _ = batch
        return token_loss(self.model(inputs), inputs)
