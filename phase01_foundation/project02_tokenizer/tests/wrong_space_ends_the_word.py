"""Leaves the space with the word before it."""


def piece_starts(text):
    kind = CLASS[text]
    starts = np.ones(len(text), bool)
    starts[1:] = (kind[1:] != kind[:-1]) & (text[1:] != ord(" "))
    return starts
