"""Makes the update from the copy, not from the weights as they are now: those in between are lost."""


class PipeDream:
    def backward(self, number, micro, dy):
        x, y, stash = self.kept.pop((number, micro))
        torch.autograd.backward(y, dy)
        for name, p in self.module.named_parameters():
            p.data.copy_(stash[name].data)
            p.grad = stash[name].grad
        self.optimizer.step()
        self.optimizer.zero_grad()
        return x.grad
