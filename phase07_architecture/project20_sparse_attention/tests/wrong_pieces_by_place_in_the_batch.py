"""Takes the number of a query in the batch for its position in the text."""


def pieces(pattern, positions, tile=TILE, chunk=CHUNK):
    places = torch.arange(len(positions), dtype=torch.int32)
    for step, group, before in pattern.groups():
        order = (places % step).argsort(stable=True)
        alike = order.split((places % step).bincount().tolist())
        for rows in (rows for part in alike if len(part) for rows in part.split(tile)):
            t = places[rows][:, None]
            near = group.keys(range(int(t[0]), int(t[-1]) + 1, step))
            for keys in near.split(chunk) if len(near) else ():
                look = group.look(t, keys)
                yield rows, keys, look & ~before.rule(t, keys) if before.parts else look
