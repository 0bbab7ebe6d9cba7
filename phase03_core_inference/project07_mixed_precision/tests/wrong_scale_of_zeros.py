"""Divides by an amax of 0."""


def delayed_scale(x, history, dtype):
    amax = x.detach().abs().amax().float()
    largest = history.max()
    scale = torch.finfo(dtype).max / torch.where(largest > 0, largest, amax)
    kept = torch.where(amax.isfinite(), amax, 0.0)
    history.copy_(torch.cat((kept[None], history[:-1])))
    return scale
