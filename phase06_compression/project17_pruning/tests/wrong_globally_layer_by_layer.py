"""Takes the same share from each matrix."""


def globally(weights, sparsity):
    return {name: largest(w.abs().flatten(), kept(w.numel(), sparsity)).view_as(w)
            for name, w in weights.items()}  # fmt: skip
