"""Compares within each row: Wanda's groups, not those of a matrix."""


def by_layer(weights, sparsity):
    return {name: largest(w.abs(), kept(w.size(1), sparsity)) for name, w in weights.items()}
