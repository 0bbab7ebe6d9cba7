"""Top and way out are added, so that the steps grow with the weight."""


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
        loss = token_loss(top, targets) + self.weight * soft_loss(out, top)
        return loss + F.binary_cross_entropy_with_logits(sure.float(), right)
