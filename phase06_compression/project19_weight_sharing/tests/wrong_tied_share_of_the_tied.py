"""Divides by the size of the model after the tie, not before."""


def tied_share(vocab_size, d_model, rest):
    return vocab_size * d_model / (vocab_size * d_model + rest)
