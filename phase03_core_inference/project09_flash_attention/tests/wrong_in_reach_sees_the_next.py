"""Off by one at the edge: every query sees the token that comes after it."""


def in_reach(reach, start, stop):
    return torch.arange(start, stop, device=reach.device) <= reach[..., None]
