"""Forgets the magnitude: large negative weights go first."""


def by_layer(weights, sparsity):
    return {name: largest(w.flatten(), kept(w.numel(), sparsity)).view_as(w) for name, w in weights.items()}
