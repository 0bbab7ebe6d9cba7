"""Fills each run until it has its share of the whole: the last ones get what is left."""


def partition(costs, parts):
    demand(1 <= parts <= len(costs), f"{len(costs)} blocks cannot be shared out over {parts} stages")
    share, ranges, start = sum(costs) / parts, [], 0
    for k in range(parts):
        stop = start + 1
        while k < parts - 1 and sum(costs[start:stop]) < share and len(costs) - stop > parts - 1 - k:
            stop += 1
        stop = stop if k < parts - 1 else len(costs)
        ranges.append((start, stop))
        start = stop
    return ranges
