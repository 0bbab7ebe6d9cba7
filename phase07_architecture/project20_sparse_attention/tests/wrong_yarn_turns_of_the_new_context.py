"""Counts turns within the new context, which the model has never seen."""


def yarn(theta, head_dim, factor, context, device=None):
    angles = plain(theta, head_dim, device)
    begin, end = (head_dim * math.log(factor * context / (2 * math.pi * turns)) / (2 * math.log(theta))
                  for turns in (FAST, SLOW))  # fmt: skip
    begin, end = max(math.floor(begin), 0), min(math.ceil(end), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, device=device) - begin) / max(end - begin, 0.001)
    slowed = ramp.clamp(0, 1)
    return angles * (1 - slowed) + angles / factor * slowed
