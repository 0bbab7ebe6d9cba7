"""Nobody's rows are given to the last expert."""


def by_slices(h, w, ends):
    starts = [0, *ends.tolist()[:-1], len(h)]
    return torch.cat([F.linear(h[a:b], m) for a, b, m in zip(starts, starts[1:], w, strict=False)])
