"""What experts say is added up without their weights."""


def loop(x, routing, experts):
    y = torch.zeros_like(x)
    for i, expert in enumerate(experts):
        rows, _ = torch.where(routing.experts == i)
        y = y.index_add(0, rows, expert(x[rows]))
    return y
