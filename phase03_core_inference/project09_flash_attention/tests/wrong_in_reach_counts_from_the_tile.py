"""Counts keys from the start of their tile instead of from the start of the row."""


def in_reach(reach, start, stop):
    return torch.arange(stop - start, device=reach.device) < reach[..., None]
