"""Exponentiates the scores as they are: right for small ones, inf / inf for large ones."""


def fold(state, scores, v):
    m, l, y = state
    largest = torch.zeros_like(m)
    p = scores.sub_(largest).exp_()  # (..., R, M)
    rescale = 1.0
    return largest, l * rescale + p.sum(-1, keepdim=True), y * rescale + p @ v
