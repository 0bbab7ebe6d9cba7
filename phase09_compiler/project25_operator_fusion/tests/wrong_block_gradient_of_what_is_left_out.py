"""A target that does not count still pushes all logits down."""


def block_gradient(values, c, target, lse, scale):
    grad = tl.exp(values - lse) - tl.where(c == target, 1.0, 0.0)
    return grad * scale
