"""The spread is cut from the graph: it never learns."""


def noisy(logits, spread):
    return logits + torch.randn_like(logits) * F.softplus(spread.detach())
