"""Asks that all rows reach the threshold: a column that is loud in one of them stays in."""


def outliers(x, threshold=THRESHOLD):
    return (x.abs() >= threshold).all(0)
