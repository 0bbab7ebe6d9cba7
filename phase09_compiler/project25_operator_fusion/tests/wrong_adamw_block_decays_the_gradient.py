"""The decay is put into the gradient, as in Adam with L2, and so into the moments."""


def adamw_block(p, g, m, v, lr, beta1, beta2, eps, decay, fix1, fix2):
    g = g + decay * p
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * g * g
    p = p - lr * (m / fix1) / (tl.sqrt(v / fix2) + eps)
    return p, m, v
