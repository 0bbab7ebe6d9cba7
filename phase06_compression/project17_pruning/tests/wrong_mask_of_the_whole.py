"""Compares all weights of the matrix: an output may be left with nothing."""


def mask_of(scores, sparsity, pattern=None):
    if pattern:
        return n_of_m(scores, *pattern)
    return largest(scores.flatten(), kept(scores.numel(), sparsity)).view_as(scores)
