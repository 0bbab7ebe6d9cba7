"""As many blocks in each run, whatever they cost."""


def partition(costs, parts):
    demand(1 <= parts <= len(costs), f"{len(costs)} blocks cannot be shared out over {parts} stages")
    n = len(costs)
    ends = [k * n // parts for k in range(parts + 1)]
    return [(ends[k], ends[k + 1]) for k in range(parts)]
