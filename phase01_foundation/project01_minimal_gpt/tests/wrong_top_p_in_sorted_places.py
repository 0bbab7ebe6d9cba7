"""Applies the decision in sorted places to the logits in their own places."""


def top_p(logits, p):
    if p >= 1:
        return logits
    shares = logits.sort(descending=True).values.softmax(dim=-1)
    before = shares.cumsum(dim=-1) - shares
    return logits.masked_fill(before >= p, float("-inf"))
