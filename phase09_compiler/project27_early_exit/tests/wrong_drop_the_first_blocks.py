"""The first blocks are left out most, on which all others stand."""


def drop_rates(n_layer, most):
    return [most * (math.exp(i * math.log(2) / max(1, n_layer - 1)) - 1) for i in range(n_layer)][::-1]
