"""Does the backward before the forward of each pair: a rank waits for what needs its own forward."""


def weave(forwards, backwards, warm):
    order = forwards[:warm]
    for forward, backward in zip(forwards[warm:], backwards, strict=False):
        order += [backward, forward]
    return order + backwards[len(forwards) - warm :]
