"""The way out is asked for the text, and not for what the top says."""


class ExitLoss:
    def forward(self, batch):
        inputs, targets = batch
        model, layers = self.model, self.model.exits.layers
        states = self.states(inputs)
        n = layers[int(torch.randint(len(layers), ()))]
        top = exit_logits(model, len(model.blocks), states[len(model.blocks)])
        out = exit_logits(model, n, states[n])
        right = (out.argmax(-1) == top.argmax(-1)).float()
        sure = model.exits.probe[str(n)](states[n].detach()).squeeze(-1)
        loss = (token_loss(top, targets) + self.weight * token_loss(out, targets)) / (1 + self.weight)
        return loss + F.binary_cross_entropy_with_logits(sure.float(), right)
