"""Takes the outliers out, and does not put them back: the inputs that matter most are gone."""


def decomposed(x, codes, scale, threshold=THRESHOLD):
    large = outliers(x, threshold)
    return int8_linear(x.masked_fill(large, 0), codes, scale)
