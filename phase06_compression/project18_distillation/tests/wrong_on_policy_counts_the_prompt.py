"""Counts the prompt as well, which the student did not write."""


class OnPolicy:
    def forward(self, prompts):
        self.text = write(self.model, prompts, self.new)
        inputs = self.text[:, :-1]
        keep = torch.ones_like(inputs, dtype=torch.bool)
        x, log_p = self.model.hidden(inputs)[keep], self.teacher.read(inputs, self.T, keep)

        def loss(logits, rows):
            return self.loss(logits, log_p(rows), self.T)

        return HeadLoss.apply(x, self.model.head.weight, loss, self.chunk) / len(x)
