"""Divides the loss by the length of the stream, as if there were one update at the end."""


class PipeDream:
    def forward(self, number, micro, x):
        stage, module = self.stages[number], self.module
        stash = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
        x = self.tokens[micro] if stage.first else x.requires_grad_()
        given = (x, self.targets[micro]) if stage.last else x
        y = functional_call(module, stash, (given,))
        if stage.last:
            self.losses.append(y.item())
            self.total = self.total + y.detach()
            y = y / self.micros
        self.kept[number, micro] = x, y, stash
        return y.detach()
