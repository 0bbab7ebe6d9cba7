"""Counts norms and copies of heads once for each rank that holds them."""


def gradient_norm(model, group):
    total = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum()
    return group.all_reduce(total).sqrt()
