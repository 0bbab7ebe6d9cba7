"""Mixes what the tokens offer (keys) instead of what they say (values)."""


def look(query, keys, values):
    scale = 1 / math.sqrt(len(query))
    scores = [scale * sum(q * k for q, k in zip(query, key, strict=True)) for key in keys]
    parts = [math.exp(score - max(scores)) for score in scores]
    weights = [part / sum(parts) for part in parts]
    columns = zip(*keys, strict=True)
    return [sum(w * x for w, x in zip(weights, column, strict=True)) for column in columns], weights
