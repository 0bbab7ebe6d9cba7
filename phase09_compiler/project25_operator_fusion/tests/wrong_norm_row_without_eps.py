"""eps is forgotten, and a row of small numbers is made as large as all others."""


def norm_row(x, weight, eps, C):
    rstd = 1.0 / tl.sqrt(tl_sum(x * x, 0) / C)
    return x * rstd * weight, rstd
