"""Lets exp overflow: fine for small scores, OverflowError for large ones."""


def look(query, keys, values):
    scale = 1 / math.sqrt(len(query))
    parts = [math.exp(scale * sum(q * k for q, k in zip(query, key, strict=True))) for key in keys]
    weights = [part / sum(parts) for part in parts]
    columns = zip(*values, strict=True)
    return [sum(w * x for w, x in zip(weights, column, strict=True)) for column in columns], weights
