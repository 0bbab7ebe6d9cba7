"""The values are brought to the common maximum, the sum of weights is not."""


def joined(y, total, top, rows, B):
    index = rows.view(-1, *[1] * (top.dim() - 1)).expand_as(top)
    highest = top.new_full((B, *top.shape[1:]), -math.inf).scatter_reduce_(0, index, top, "amax")
    y = y.new_zeros(B, *y.shape[1:]).index_add_(0, rows, y * (top - highest[rows]).exp())
    return y / total.new_zeros(B, *total.shape[1:]).index_add_(0, rows, total)
