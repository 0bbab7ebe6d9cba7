"""Of those who chose a block only the first chunk is served."""


def readers(chosen, slots, block, S, chunk=CHUNK):
    B, K, G, T, n_blocks = chosen.shape
    own = slots.expand(B, T)[:, None, None].expand(B, K, G, T).flatten()
    for row in range(B * K):
        base = row * G * T
        for number, picked in enumerate(chosen.view(B * K, G * T, n_blocks)[row].unbind(-1)):
            keys = torch.arange(number * block, min((number + 1) * block, S), device=chosen.device)
            rows = (picked.nonzero().flatten() + base)[:chunk]
            if len(rows) and len(keys):
                yield rows, row * S + keys, keys <= own[rows, None]
