"""Hides the past and shows the future: the triangle is upside down."""


def hide_future(scores):
    T, S = scores.shape[-2:]
    past = torch.ones(T, S, dtype=torch.bool, device=scores.device).tril(diagonal=-1)
    return scores.masked_fill(past, float("-inf"))
