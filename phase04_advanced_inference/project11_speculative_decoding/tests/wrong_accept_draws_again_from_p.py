"""Replaces a wrong guess by a draw from the large model's shares instead of the residual."""


def accept(guesses, p, q, draws):
    for i, x in enumerate(guesses):
        if draws[i, 0] * q[i, x] >= p[i, x]:
            return [*guesses[:i], pick(p[i], draws[i, 1])]
    return [*guesses, pick(p[len(guesses)], draws[len(guesses), 1])]
