"""Counts batches that end together."""


def continuous_steps(lengths, B):
    return sum(max(lengths[i : i + B]) for i in range(0, len(lengths), B))
