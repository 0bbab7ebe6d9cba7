"""Goes by the first matrix alone: the others that read the same input have no say."""


def search(weights, moments, bits, group=None, symmetric=True, size=None):
    H, size = moments.hessian, moments.size if size is None else size
    best, least = None, float("inf")
    for i in range(POINTS):
        s = unit(size, i / POINTS)
        error = layer_error(weights[0], rounded(weights[0], s, bits, group, symmetric), H).sum().item()
        if error < least:
            best, least = s, error
    return best
