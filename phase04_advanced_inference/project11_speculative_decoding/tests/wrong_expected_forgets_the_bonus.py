"""Counts the guesses and forgets the token that always comes."""


def expected_tokens(a, K):
    return sum(a**i for i in range(1, K + 1))
