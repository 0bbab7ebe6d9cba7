"""Takes each micro-batch's own mean: the gradients are m times too large."""


class Pipeline:
    def forward(self, number, micro, x):
        stage = self.stages[number]
        x = self.tokens[micro] if stage.first else x.requires_grad_()
        if stage.last:
            y = self.objective((x, self.targets[micro]))
            self.total = self.total + y.detach() / self.micros
        else:
            y = stage(x)
        self.kept[number, micro] = x, y
        return y.detach()
