"""Forgets the product at the end of a block: errors stay within it."""


def solve(w, U, sparsity, pattern=None, block=BLOCK):
    w, U = w.float().clone(), U.float()
    mask = torch.ones_like(w, dtype=torch.bool)
    m = pattern[1] if pattern else block
    demand(block % m == 0, f"blocks of {block} columns do not hold whole groups of {m}")
    for start in range(0, w.size(1), block):
        stop = min(start + block, w.size(1))
        errors = torch.zeros_like(w[:, start:stop])
        for j in range(start, stop):
            if (j - start) % m == 0:
                at = slice(j, min(j + m, stop))
                scores = saliency(w[:, at], U[at, at])
                share = largest(scores.flatten(), kept(scores.numel(), sparsity)) if not pattern else None
                mask[:, at] = n_of_m(scores, *pattern) if pattern else share.view_as(scores)
            errors[:, j - start] = torch.where(mask[:, j], 0, w[:, j]) / U[j, j]
            w[:, j:stop] -= errors[:, j - start, None] * U[j, j:stop]
    return w * mask
