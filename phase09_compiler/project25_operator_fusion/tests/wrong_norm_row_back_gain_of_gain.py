"""The gain's gradient has the gain in it once more."""


def norm_row_back(dy, x, weight, rstd, C):
    n = x * rstd
    g = dy * weight
    return rstd * (g - n * (tl_sum(g * n, 0) / C)), g * n
