"""Rounds down and leaves the rest of the columns to nobody."""


def fair_widths(distinct, width):
    demand(width >= len(distinct) >= 1, f"{width} columns for {len(distinct)} groups: at least one each")
    spare, keys = width - len(distinct), sum(distinct.values())
    return {group: 1 + spare * n // keys for group, n in distinct.items()}
