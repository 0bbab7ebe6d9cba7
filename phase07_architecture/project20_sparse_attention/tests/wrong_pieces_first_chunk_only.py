"""Of a long list of keys only the first chunk is read."""


def pieces(pattern, positions, tile=TILE, chunk=CHUNK):
    for step, group, before in pattern.groups():
        order = (positions % step).argsort(stable=True)
        alike = order.split((positions % step).bincount().tolist())
        for rows in (rows for part in alike if len(part) for rows in part.split(tile)):
            t = positions[rows][:, None]
            keys = group.keys(range(int(t[0]), int(t[-1]) + 1, step))[:chunk]
            if len(keys):
                look = group.look(t, keys)
                yield rows, keys, look & ~before.rule(t, keys) if before.parts else look
