"""Counts all guesses that are right, also those behind a wrong one."""


def agree(guesses, drawn):
    kept = sum(a == b for a, b in zip(guesses, drawn, strict=False))
    return drawn[: kept + 1]
