"""Every row's tokens stand at 0, 1, …, wherever the text is."""


def ragged(part, device=None):
    T = max(n for _, n in part)
    tokens, positions = [], []
    for sequence, n in part:
        fed = sequence.feed(n)
        tokens.append(fed + fed[-1:] * (T - n))
        positions.append([*range(n)] + [n - 1] * (T - n))
    longest = 1 + max(map(max, positions))
    ids, ns = zip(*((sequence.id, n) for sequence, n in part), strict=True)
    return Step(ids, ns, torch.tensor(tokens, device=device), torch.tensor(positions, device=device), longest)
