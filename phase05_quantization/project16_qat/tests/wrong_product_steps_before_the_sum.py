"""Multiplies by the inputs' step before the sum, which is then no longer exact."""


def code_product(x, w, x_step, w_step, multiply):
    size, total = x.size(1) // w_step.size(1), 0
    for g, (a, b) in enumerate(zip(x.split(size, 1), w.split(size, 1), strict=True)):
        total = total + multiply(a * x_step, b.T) * w_step[:, g]
    return total
