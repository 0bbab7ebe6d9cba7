"""Divides the columns of the maker, and not its rows: a matrix puts out what its rows say."""


def fold(maker, readers, s, rows=None):
    rows = s if rows is None else rows
    if maker.weight.size(-1) == len(rows):
        maker.weight /= rows
    if getattr(maker, "bias", None) is not None:
        maker.bias /= rows
    for reader in readers:
        reader.weight *= s
