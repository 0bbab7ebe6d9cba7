"""Groups neighbours in a column, not in a row."""


def n_of_m(scores, n=2, m=4):
    demand(0 < n < m, f"{n} of {m} is no pattern: at least one weight stays, and at least one goes")
    demand(scores.size(-1) % m == 0, f"groups of {m} do not divide rows of {scores.size(-1)}")
    return largest(scores.T.unflatten(-1, (-1, m)), n).flatten(-2).T
