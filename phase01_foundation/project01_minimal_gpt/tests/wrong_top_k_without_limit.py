"""Asks for more than there are when k is larger than the vocabulary."""


def top_k(logits, k):
    if k == 0:
        return logits
    kth = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < kth, float("-inf"))
