"""The lowest score comes first."""


def ranks(scores):
    order, places = np.argsort(scores, kind="stable"), np.empty(len(scores), int)
    places[order] = np.arange(1, len(scores) + 1)
    return places
