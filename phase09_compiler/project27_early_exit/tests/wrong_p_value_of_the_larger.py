"""The weaker of the two bounds."""


def p_value(risk, n, tolerance):
    hoeffding = math.exp(-n * divergence(min(risk, tolerance), tolerance))
    bentkus = math.e * at_most(math.ceil(round(n * risk, 9)), n, tolerance)
    return min(1.0, max(hoeffding, bentkus))
