"""An overflow stays in the history: the scale is 0 for all the steps that it holds."""


def delayed_scale(x, history, dtype):
    amax = x.detach().abs().amax().float()
    largest = history.max()
    scale = torch.finfo(dtype).max / torch.where(largest > 0, largest, amax)
    history.copy_(torch.cat((amax[None], history[:-1])))
    return torch.where(scale.isfinite() & (scale > 0), scale, 1.0)
