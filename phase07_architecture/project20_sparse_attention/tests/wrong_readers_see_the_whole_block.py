"""In its own block a query sees what comes after it."""


def readers(chosen, slots, block, S, chunk=CHUNK):
    B, K, G, T, n_blocks = chosen.shape
    for row in range(B * K):
        base = row * G * T
        for number, picked in enumerate(chosen.view(B * K, G * T, n_blocks)[row].unbind(-1)):
            keys = torch.arange(number * block, min((number + 1) * block, S), device=chosen.device)
            for rows in (picked.nonzero().flatten() + base).split(chunk):
                if len(rows) and len(keys):
                    yield rows, row * S + keys, keys == keys + 0 * rows[:, None]
