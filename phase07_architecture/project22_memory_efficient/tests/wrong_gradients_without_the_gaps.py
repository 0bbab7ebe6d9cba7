"""Leaves out the inputs that need none, so that those behind them get each other's."""


def gradients(fn, inputs, needs, grads):
    copies = [x.detach().requires_grad_(need) for x, need in zip(inputs, needs, strict=True)]
    with torch.enable_grad():
        outputs = fn(*copies)
    found = torch.autograd.grad(outputs, [x for x in copies if x.requires_grad], grads)
    return [*found, *[None] * (len(needs) - len(found))]
