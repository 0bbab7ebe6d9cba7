"""The chances rise evenly."""


def drop_rates(n_layer, most):
    return [most * i / max(1, n_layer - 1) for i in range(n_layer)]
