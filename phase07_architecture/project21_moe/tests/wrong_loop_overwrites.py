"""The second expert of a token overwrites what the first one said."""


def loop(x, routing, experts):
    y = torch.zeros_like(x)
    for i, expert in enumerate(experts):
        rows, place = torch.where(routing.experts == i)
        y = y.index_copy(0, rows, routing.weights[rows, place, None] * expert(x[rows]))
    return y
