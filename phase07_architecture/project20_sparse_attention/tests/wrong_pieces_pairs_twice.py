"""A pair that two groups have is counted in both: its key gets double weight."""


def pieces(pattern, positions, tile=TILE, chunk=CHUNK):
    for step, group, _ in pattern.groups():
        order = (positions % step).argsort(stable=True)
        alike = order.split((positions % step).bincount().tolist())
        for rows in (rows for part in alike if len(part) for rows in part.split(tile)):
            t = positions[rows][:, None]
            near = group.keys(range(int(t[0]), int(t[-1]) + 1, step))
            for keys in near.split(chunk) if len(near) else ():
                yield rows, keys, group.look(t, keys)
