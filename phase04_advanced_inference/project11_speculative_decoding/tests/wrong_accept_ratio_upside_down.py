"""Keeps with the chance q / p instead of p / q."""


def accept(guesses, p, q, draws):
    for i, x in enumerate(guesses):
        if draws[i, 0] * p[i, x] >= q[i, x]:
            return [*guesses[:i], pick(residual(p[i], q[i]), draws[i, 1])]
    return [*guesses, pick(p[len(guesses)], draws[len(guesses), 1])]
