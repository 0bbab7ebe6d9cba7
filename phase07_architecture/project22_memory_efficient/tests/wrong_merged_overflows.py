"""Powers of the weights as they are: infinite from 128 on."""


def merged(ys, lses):
    weights = tl.exp2(lses)
    return tl_sum(weights[:, None] * ys, 0) / tl_sum(weights, 0)
