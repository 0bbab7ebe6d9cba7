"""Forgets the bonus where all guesses were kept."""


def accept(guesses, p, q, draws):
    for i, x in enumerate(guesses):
        if draws[i, 0] * q[i, x] >= p[i, x]:
            return [*guesses[:i], pick(residual(p[i], q[i]), draws[i, 1])]
    return list(guesses) or [pick(p[0], draws[0, 1])]
