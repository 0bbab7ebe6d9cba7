"""Gives both sides the whole singular values, so that the product has their squares."""


def low_rank(matrix, rank):
    u, s, v = torch.linalg.svd(matrix.float(), full_matrices=False)
    return (u[:, :rank] * s[:rank]).to(matrix.dtype), (v[:rank].T * s[:rank]).to(matrix.dtype)
