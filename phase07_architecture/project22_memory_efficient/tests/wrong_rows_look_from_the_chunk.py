"""Counts the keys that are hidden from the start of the chunk and not of the row."""


def attend_rows(q, ks, vs, reach, mask, keys):
    S, G, found = sum(k.size(2) for k in ks), q.size(2), []
    for (start, stop, whole), k, v in zip(spans(keys, S, reach, mask), ks, vs, strict=False):
        seen = stop - start
        look = None if whole else partial(look_at, 0, seen, reach, mask, G)
        found.append(forget(partial(summarise, look=look), q, k[:, :, :seen], v[:, :, :seen]))
    ys, lses = (torch.stack(some) for some in zip(*found, strict=True))
    return merge(ys, lses)[0].unflatten(2, (G, -1))
