"""Reads the bags in the wrong order: groups where query heads are."""


def scores(q, keys, n):
    B, K, g, D = q.shape
    places = key_places(B * K, keys.table.size(2), n, g, D)
    weights = q.unsqueeze(2).expand(-1, -1, n, -1, -1)
    found = bags(keys, places, D, weights.reshape(-1))
    return found.view(B, K, g, n, -1).flatten(-2)
