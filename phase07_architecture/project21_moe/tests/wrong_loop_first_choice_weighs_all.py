"""Every choice of a token is weighed by its first one's weight."""


def loop(x, routing, experts):
    y = torch.zeros_like(x)
    for i, expert in enumerate(experts):
        rows, _ = torch.where(routing.experts == i)
        y = y.index_add(0, rows, routing.weights[rows, :1] * expert(x[rows]))
    return y
