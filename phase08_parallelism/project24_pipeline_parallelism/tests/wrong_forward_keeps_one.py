"""Keeps what belongs to the newest micro-batch only, in one place for each stage."""


class Pipeline:
    def forward(self, number, micro, x):
        stage = self.stages[number]
        x = self.tokens[micro] if stage.first else x.requires_grad_()
        if stage.last:
            y = self.objective((x, self.targets[micro])) / self.micros
            self.total = self.total + y.detach()
        else:
            y = stage(x)
        for i in range(self.micros):
            self.kept[number, i] = x, y
        return y.detach()
