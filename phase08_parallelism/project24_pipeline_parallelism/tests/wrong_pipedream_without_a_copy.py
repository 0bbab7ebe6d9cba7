"""Does not copy the weights: by the time that the gradient comes back they are others."""


class PipeDream:
    def forward(self, number, micro, x):
        stage, module = self.stages[number], self.module
        stash = {name: p.data.requires_grad_() for name, p in module.named_parameters()}
        x = self.tokens[micro] if stage.first else x.requires_grad_()
        given = (x, self.targets[micro]) if stage.last else x
        y = functional_call(module, stash, (given,))
        if stage.last:
            self.losses.append(y.item())
            self.total = self.total + y.detach()
        self.kept[number, micro] = x, y, stash
        return y.detach()
