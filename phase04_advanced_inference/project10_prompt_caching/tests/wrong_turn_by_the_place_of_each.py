"""Each key is turned by its own place in the prompt, on top of its place in the passage."""


def turn(k, by, rope):
    return rotate(k, rope(by + torch.arange(k.size(-2), device=k.device)))
