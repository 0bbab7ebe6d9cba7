"""Goes backwards from the first of its stages to the last: each waits for what comes later."""


def interleaved(rank, p, m, v):
    demand(m % p == 0, f"interleaved stages need micro-batches in groups of {p}")

    def nth(k, kind):
        group, k = divmod(k, p * v)
        chunk, place = divmod(k, p)
        return Action(chunk * p + rank, kind, group * p + place)

    forwards, backwards = ([nth(k, kind) for k in range(m * v)] for kind in "FB")
    return weave(forwards, backwards, min(m * v, (v - 1) * p + 2 * (p - 1 - rank)))
