"""Divides the scores by D, not by its square root."""


def look(query, keys, values):
    scores = [sum(q * k for q, k in zip(query, key, strict=True)) / len(query) for key in keys]
    parts = [math.exp(score - max(scores)) for score in scores]
    weights = [part / sum(parts) for part in parts]
    columns = zip(*values, strict=True)
    return [sum(w * x for w, x in zip(weights, column, strict=True)) for column in columns], weights
