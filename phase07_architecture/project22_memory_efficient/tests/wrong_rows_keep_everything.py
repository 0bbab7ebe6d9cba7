"""Right, and forgets nothing: autograd keeps the scores of every chunk."""


def attend_rows(q, ks, vs, reach, mask, keys):
    S, G, found = sum(k.size(2) for k in ks), q.size(2), []
    for (start, stop, whole), k, v in zip(spans(keys, S, reach, mask), ks, vs, strict=False):
        look = None if whole else partial(look_at, start, stop, reach, mask, G)
        found.append(summarise(q, k[:, :, : stop - start], v[:, :, : stop - start], look=look))
    ys, lses = (torch.stack(some) for some in zip(*found, strict=True))
    return merge(ys, lses)[0].unflatten(2, (G, -1))
