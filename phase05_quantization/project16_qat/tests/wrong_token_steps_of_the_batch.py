"""One step for the whole batch: a row depends on its neighbours."""


def token_steps(x):
    largest = x.detach().abs().max().expand(len(x), 1)
    return (largest / qmax(INPUT_BITS)).clamp(min=TINY)
