"""The norm of what this rank holds: each rank clips by a number of its own."""


def gradient_norm(model, group):
    return torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
