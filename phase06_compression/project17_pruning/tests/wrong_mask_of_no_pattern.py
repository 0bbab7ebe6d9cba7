"""Forgets the pattern."""


def mask_of(scores, sparsity, pattern=None):
    return largest(scores, kept(scores.size(-1), sparsity))
