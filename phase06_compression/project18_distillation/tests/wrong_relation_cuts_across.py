"""Cuts the vectors across: a part holds every so many-th number, not neighbours."""


def relation(a, b, heads):
    a, b = (x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2) for x in (a, b))
    scores = a.float() @ b.float().mT / math.sqrt(a.size(-1))
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=a.device).triu(1)
    return scores.masked_fill(future, FAR).log_softmax(-1)
