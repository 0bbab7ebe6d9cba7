"""Keeps the last singular values, which are the smallest."""


def low_rank(matrix, rank):
    u, s, v = torch.linalg.svd(matrix.float(), full_matrices=False)
    root = s[-rank:].sqrt()
    return (u[:, -rank:] * root).to(matrix.dtype), (v[-rank:].T * root).to(matrix.dtype)
