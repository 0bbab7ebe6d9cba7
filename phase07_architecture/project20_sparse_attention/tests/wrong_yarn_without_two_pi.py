"""Counts radians for turns."""


def yarn(theta, head_dim, factor, context, device=None):
    angles = plain(theta, head_dim, device)
    begin, end = (head_dim * math.log(context / turns) / (2 * math.log(theta)) for turns in (FAST, SLOW))
    begin, end = max(math.floor(begin), 0), min(math.ceil(end), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, device=device) - begin) / max(end - begin, 0.001)
    slowed = ramp.clamp(0, 1)
    return angles * (1 - slowed) + angles / factor * slowed
