"""The source sends x to each rank itself: N - 1 times as many bytes."""


def broadcast(wire, x, source=0, piece=65_536):
    for rank in range(wire.world):
        if wire.rank == source and rank != source:
            wire.exchange(x, rank)
    if wire.rank != source:
        wire.exchange(into=x, source=source)
