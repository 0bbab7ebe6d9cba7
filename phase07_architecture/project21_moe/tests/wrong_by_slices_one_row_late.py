"""Each stretch begins a row late."""


def by_slices(h, w, ends):
    starts = [0, *ends.tolist()]
    parts = [F.linear(h[a + 1 : b + 1], m) for a, b, m in zip(starts, starts[1:], w, strict=False)]
    y = torch.cat(parts)
    return F.pad(y, (0, 0, 0, len(h) - len(y)))
