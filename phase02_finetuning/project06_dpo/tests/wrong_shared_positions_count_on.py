"""The rejected answer stands behind the chosen one instead of behind the prompt."""


def shared(pairs, pad=0):
    sizes = [(len(p.prompt), len(p.chosen), len(p.rejected)) for p in pairs]
    T = max(map(sum, sizes))
    tokens = torch.tensor([[*p.prompt, *p.chosen, *p.rejected, *[pad] * (T - sum(size))]
                           for p, size in zip(pairs, sizes, strict=True)])  # (B, T) # fmt: skip
    P, R = (torch.tensor(bounds)[:, None] for bounds in zip(*((p, p + c) for p, c, _ in sizes), strict=True))
    place = torch.arange(T)[None]  # (1, T)
    positions = place.expand(len(pairs), T)  # (B, T)
    branch = (place >= P).int() + (place >= R).int()  # (B, T): 0 prompt, 1 chosen, 2 rejected
    seen = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])  # (B, T, T)
    mask = (seen & (place[0] <= place[0, :, None]))[:, None]  # (B, 1, T, T)
    starts = [(i * T + p - 1, i * T + p, c) for i, (p, c, _) in enumerate(sizes)]  # the prompt's end, ...
    starts += [(i * T + p - 1, i * T + p + c, r) for i, (p, c, r) in enumerate(sizes)]  # its answer
    asks = [[asked, *range(first, first + n - 1)] for asked, first, n in starts]
    targets = [p.chosen for p in pairs] + [p.rejected for p in pairs]
    ends = [first + n - 1 for _, first, n in starts]
    return Pairs(tokens, positions, mask, *_flat(asks, targets, ends))
