"""A rank passes nothing on until it has everything: no two wires are busy at once."""


def broadcast(wire, x, source=0, piece=65_536):
    right, left = neighbours(wire)
    place = (wire.rank - source) % wire.world
    if place > 0:
        for part in x.view(-1).split(piece):
            wire.exchange(into=part, source=left)
    if place < wire.world - 1:
        for part in x.view(-1).split(piece):
            wire.exchange(part, right)
