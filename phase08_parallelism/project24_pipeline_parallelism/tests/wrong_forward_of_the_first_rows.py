"""Takes the first micro-batch's targets for all of them."""


class Pipeline:
    def forward(self, number, micro, x):
        stage = self.stages[number]
        x = self.tokens[micro] if stage.first else x.requires_grad_()
        if stage.last:
            y = self.objective((x, self.targets[0])) / self.micros
            self.total = self.total + y.detach()
        else:
            y = stage(x)
        self.kept[number, micro] = x, y
        return y.detach()
