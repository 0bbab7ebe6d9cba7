"""alpha weighs the true tokens, and the teacher gets what is left."""


class LogitKD:
    def of(self, inputs, targets, **where):
        keep = targets != IGNORE
        x, ids = self.model.hidden(inputs, **where)[keep], targets[keep]
        log_p = self.teacher.read(inputs, self.T, keep, **where)
        sums = {"hard": 0.0, "soft": 0.0}

        def loss(logits, rows):
            hard = F.cross_entropy(logits, ids[rows], reduction="sum")
            soft = soft_loss(logits, log_p(rows), self.T)
            sums["hard"], sums["soft"] = sums["hard"] + hard.detach(), sums["soft"] + soft.detach()
            return self.alpha * hard + (1 - self.alpha) * soft

        N = max(1, len(ids))
        total = HeadLoss.apply(x, self.model.head.weight, loss, self.chunk) / N
        self.parts = {name: value / N for name, value in sums.items()}
        return total
