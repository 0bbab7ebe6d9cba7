"""Keeps a guess where the large model likes it best: longest match."""


def accept(guesses, p, q, draws):
    for i, x in enumerate(guesses):
        if x != int(p[i].argmax()):
            return [*guesses[:i], pick(p[i], draws[i, 1])]
    return [*guesses, pick(p[len(guesses)], draws[len(guesses), 1])]
