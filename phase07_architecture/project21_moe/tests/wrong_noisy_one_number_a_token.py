"""One number for all experts of a token: their order stays as it was."""


def noisy(logits, spread):
    return logits + torch.randn_like(logits[:, :1]) * F.softplus(spread)
