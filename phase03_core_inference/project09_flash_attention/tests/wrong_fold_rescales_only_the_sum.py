"""Rescales l and forgets y, which was summed under the old maximum as well."""


def fold(state, scores, v):
    m, l, y = state
    largest = torch.maximum(m, scores.amax(-1, keepdim=True))  # (..., R, 1)
    p = scores.sub_(largest).exp_()  # (..., R, M)
    rescale = (m - largest).exp()  # what was summed under the old maximum, under the new one
    return largest, l * rescale + p.sum(-1, keepdim=True), y + p @ v
