"""Gives every group as many columns, however many keys it has."""


def fair_widths(distinct, width):
    demand(width >= len(distinct) >= 1, f"{width} columns for {len(distinct)} groups: at least one each")
    share, left = divmod(width, len(distinct))
    return {group: share + (i < left) for i, group in enumerate(distinct)}
