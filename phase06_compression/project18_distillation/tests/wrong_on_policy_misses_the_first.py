"""Begins one place late: the first token that the student wrote is never judged."""


class OnPolicy:
    def forward(self, prompts):
        self.text = write(self.model, prompts, self.new)
        inputs = self.text[:, :-1]
        keep = torch.zeros_like(inputs, dtype=torch.bool)
        keep[:, prompts.size(1) :] = True
        x, log_p = self.model.hidden(inputs)[keep], self.teacher.read(inputs, self.T, keep)

        def loss(logits, rows):
            return self.loss(logits, log_p(rows), self.T)

        return HeadLoss.apply(x, self.model.head.weight, loss, self.chunk) / len(x)
