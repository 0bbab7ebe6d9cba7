"""Warms up as plain 1F1B does, one forward for each rank behind it in place of two."""


def interleaved(rank, p, m, v):
    demand(m % p == 0, f"interleaved stages need micro-batches in groups of {p}")

    def nth(k, kind):
        group, k = divmod(k, p * v)
        chunk, place = divmod(k, p)
        chunk = chunk if kind == "F" else v - 1 - chunk
        return Action(chunk * p + rank, kind, group * p + place)

    forwards, backwards = ([nth(k, kind) for k in range(m * v)] for kind in "FB")
    return weave(forwards, backwards, min(m * v, (v - 1) * p + p - 1 - rank))
