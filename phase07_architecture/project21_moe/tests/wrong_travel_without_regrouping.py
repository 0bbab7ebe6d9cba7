"""What came is computed as if it lay expert by expert."""


def travel(h, counts, experts, group=None):
    coming = exchange_counts(counts, group)
    give, take = counts.view(len(coming), -1).sum(1).tolist(), coming.sum(1).tolist()
    here = AllToAll.apply(h[: sum(give)], give, take, group)
    y = AllToAll.apply(segments(here, coming.sum(0), experts), take, give, group)
    return nn.functional.pad(y, (0, 0, 0, len(h) - len(y)))
