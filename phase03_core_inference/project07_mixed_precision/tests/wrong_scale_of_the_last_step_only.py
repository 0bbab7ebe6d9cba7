"""Looks at the last step and not at the history: one quiet step, and the next is cut off."""


def delayed_scale(x, history, dtype):
    amax = x.detach().abs().amax().float()
    largest = history[0]
    scale = torch.finfo(dtype).max / torch.where(largest > 0, largest, amax)
    kept = torch.where(amax.isfinite(), amax, 0.0)
    history.copy_(torch.cat((kept[None], history[:-1])))
    return torch.where(scale.isfinite() & (scale > 0), scale, 1.0)
