"""Multiplies rows, the outputs, by the lengths of inputs; that fits where a matrix is square."""


def worth(w, moments):
    sizes = moments.hessian.diagonal().sqrt().to(w.dtype)
    return w.abs() * (sizes[:, None] if len(w) == len(sizes) else sizes.mean())
