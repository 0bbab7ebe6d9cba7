"""Divides by the root of the whole width, not of a head's part of it."""


def relation(a, b, heads):
    whole = a.size(-1)
    a, b = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (a, b))
    scores = a.float() @ b.float().mT / math.sqrt(whole)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=a.device).triu(1)
    return scores.masked_fill(future, FAR).log_softmax(-1)
