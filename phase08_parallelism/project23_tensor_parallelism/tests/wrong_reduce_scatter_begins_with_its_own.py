"""Begins with its own part: in the end each rank has the sum of the part to its right."""


def reduce_scatter(wire, parts, combine=torch.add):
    right, left = neighbours(wire)
    for step in range(wire.world - 1):
        gone, here = (wire.rank - step) % wire.world, (wire.rank - 1 - step) % wire.world
        received = torch.empty_like(parts[here])
        wire.exchange(parts[gone], right, received, left)
        parts[here] = combine(parts[here], received)
    return parts[wire.rank]
