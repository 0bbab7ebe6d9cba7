"""No mask: tokens are compared with those behind them, as in BERT."""


def relation(a, b, heads):
    a, b = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (a, b))
    return (a.float() @ b.float().mT / math.sqrt(a.size(-1))).log_softmax(-1)
