"""Gives a rank neighbouring stages: rank 0 has stages 0 and 1, so nothing is interleaved."""


def interleaved(rank, p, m, v):
    demand(m % p == 0, f"interleaved stages need micro-batches in groups of {p}")

    def nth(k, kind):
        group, k = divmod(k, p * v)
        chunk, place = divmod(k, p)
        chunk = chunk if kind == "F" else v - 1 - chunk
        return Action(rank * v + chunk, kind, group * p + place)

    forwards, backwards = ([nth(k, kind) for k in range(m * v)] for kind in "FB")
    return weave(forwards, backwards, min(m * v, (v - 1) * p + 2 * (p - 1 - rank)))
