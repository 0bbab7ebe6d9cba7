"""Pads without a mask: zeros at position 0, which overwrite the beginning of the text."""


def ragged(part, device=None):
    T = max(n for _, n in part)
    tokens, positions = [], []
    for sequence, n in part:
        fed, start = sequence.feed(n), sequence.computed
        tokens.append(fed + [0] * (T - n))
        positions.append([*range(start, start + n)] + [0] * (T - n))
    longest = 1 + max(map(max, positions))
    ids, ns = zip(*((sequence.id, n) for sequence, n in part), strict=True)
    return Step(ids, ns, torch.tensor(tokens, device=device), torch.tensor(positions, device=device), longest)
