"""Right, and copies the keys for every query head that reads them."""


def split(q, k, v, reach, mask=None, *, splits=None, threads=None):
    demand(all(n is None or n >= 1 for n in (splits, threads)), "splits and threads must be at least 1")
    (B, H, T, _), (K, S), threads = q.shape, k.shape[1:3], threads or workers_of(q.device)
    rows, needed, calls = group(q, k).flatten(2, 3), S if mask is not None else int(reach.max()), []
    splits = splits or how_many(1, needed // BLOCK, threads)  # a worker takes all rows and heads of its share
    if mask is not None:
        mask = mask.expand(B, H, T, S).unflatten(1, (K, H // K))  # (B, K, G, T, S), a view
    with torch.autocast(q.device.type, enabled=False):  # it would make the parts 16-bit again
        for start, stop, whole in spans(max(1, math.ceil(needed / splits)), S, reach, mask):
            look = None if whole else look_at(start, stop, reach, mask, H // K)
            some = [x.repeat_interleave(H // K, 1)[:, :: H // K, start:stop] for x in (k, v)]
            calls.append(partial(part, rows, *some, look))
        found = in_parallel(calls, threads)
        ys, lses = map(torch.stack, zip(*found, strict=True))  # (splits, B, K, G * T, D or 1)
        return ungroup(merge(ys, lses)[0].unflatten(2, (H // K, T)), q)
