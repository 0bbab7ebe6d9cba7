"""Adds up K equal chances, as if a guess counted though one before it was wrong."""


def expected_tokens(a, K):
    return 1 + K * a
