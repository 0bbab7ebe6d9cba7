"""Takes what is above 0 for what is not 0."""


def compress(w):
    mask = w > 0
    return pack(mask), w[mask]
