"""Never sets gradients to zero: each update makes those before it again."""


class PipeDream:
    def backward(self, number, micro, dy):
        x, y, stash = self.kept.pop((number, micro))
        torch.autograd.backward(y, dy)
        for name, p in self.module.named_parameters():
            p.grad = stash[name].grad if p.grad is None else p.grad + stash[name].grad
        self.optimizer.step()
        return x.grad
