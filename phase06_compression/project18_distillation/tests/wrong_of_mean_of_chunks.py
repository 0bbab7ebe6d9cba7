"""Takes the mean in each chunk and adds the means up: the loss grows with the number of chunks."""


class LogitKD:
    def of(self, inputs, targets, **where):
        keep = targets != IGNORE
        x, ids = self.model.hidden(inputs, **where)[keep], targets[keep]
        log_p = self.teacher.read(inputs, self.T, keep, **where)
        self.parts = {"hard": torch.zeros(()), "soft": torch.zeros(())}

        def loss(logits, rows):
            hard = F.cross_entropy(logits, ids[rows])
            soft = soft_loss(logits, log_p(rows), self.T) / len(logits)
            now = {"hard": hard.detach(), "soft": soft.detach()}
            self.parts = {name: value + now[name] for name, value in self.parts.items()}
            return (1 - self.alpha) * hard + self.alpha * soft

        return HeadLoss.apply(x, self.model.head.weight, loss, self.chunk)
