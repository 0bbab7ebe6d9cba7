"""The one at the target is not scaled."""


def block_gradient(values, c, target, lse, scale):
    grad = tl.exp(values - lse) * scale - tl.where(c == target, 1.0, 0.0)
    return tl.where(target < 0, 0.0, grad)
