"""Chooses as SparseGPT does and repairs nothing."""


def solve(w, U, sparsity, pattern=None, block=BLOCK):
    w, U = w.float().clone(), U.float()
    mask = torch.ones_like(w, dtype=torch.bool)
    m = pattern[1] if pattern else block
    demand(block % m == 0, f"blocks of {block} columns do not hold whole groups of {m}")
    for j in range(0, w.size(1), m):
        scores = saliency(w[:, j : j + m], U[j : j + m, j : j + m])
        share = largest(scores.flatten(), kept(scores.numel(), sparsity)).view_as(scores)
        mask[:, j : j + m] = n_of_m(scores, *pattern) if pattern else share
    return w * mask
