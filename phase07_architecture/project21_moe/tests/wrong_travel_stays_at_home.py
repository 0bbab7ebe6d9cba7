"""My experts compute my rows: those of others are never asked."""


def travel(h, counts, experts, group=None):
    here = counts.view(-1, len(experts)).sum(0)
    y = segments(h[: int(here.sum())], here, experts)
    return nn.functional.pad(y, (0, 0, 0, len(h) - len(y)))
