"""eps stands under the root, where it is a hundred times too much or too little."""


def adamw_block(p, g, m, v, lr, beta1, beta2, eps, decay, fix1, fix2):
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * g * g
    p = p * (1.0 - lr * decay) - lr * (m / fix1) / tl.sqrt(v / fix2 + eps)
    return p, m, v
