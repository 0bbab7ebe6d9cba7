"""The rows are weighed before they are sorted back: by weights of other choices."""


def sorted_segments(x, routing, experts, compute=segments):
    N, k = routing.experts.shape
    order, inverse, counts = sort_by_expert(routing.experts, routing.scores.size(1))
    h = compute(Rows.apply(x, order // k, inverse), counts, experts) * routing.weights.reshape(-1, 1)
    return Rows.apply(h, inverse, order).view(N, k, x.size(1)).sum(1)
