"""Row c % N for choice c: rows of other tokens."""


def sorted_segments(x, routing, experts, compute=segments):
    N, k = routing.experts.shape
    order, inverse, counts = sort_by_expert(routing.experts, routing.scores.size(1))
    h = Rows.apply(x, order % max(1, N), inverse)
    y = Rows.apply(compute(h, counts, experts), inverse, order)
    return (y.view(N, k, x.size(1)) * routing.weights[..., None]).sum(1)
