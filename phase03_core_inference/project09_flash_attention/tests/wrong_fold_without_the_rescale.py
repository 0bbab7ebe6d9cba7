"""Adds the new tile to sums that were taken under an older, smaller maximum."""


def fold(state, scores, v):
    m, l, y = state
    largest = torch.maximum(m, scores.amax(-1, keepdim=True))  # (..., R, 1)
    p = scores.sub_(largest).exp_()  # (..., R, M)
    return largest, l + p.sum(-1, keepdim=True), y + p @ v
