"""The binomial's chance alone, without e: losses between 0 and 1 are no coins."""


def p_value(risk, n, tolerance):
    return at_most(math.ceil(round(n * risk, 9)), n, tolerance)
