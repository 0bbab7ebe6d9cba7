"""A piece of which a query sees nothing has the maximum minus infinity: less itself, that is NaN."""


def paged(q, k, v, view):
    (where, hidden), (rows, _) = view.matrix(q.size(1), k), view.pieces
    k, v, queries = k.flatten(0, 2), v.flatten(0, 2), q[rows]
    scale = q.size(3) ** -0.5
    scores = torch.sparse.sampled_addmm(where, queries.flatten(0, 2), k.T, beta=0.0, alpha=scale, out=where)
    scores = scores.values().view(*queries.shape[:3], -1).add_(hidden)
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()
    y = F.embedding_bag(where.col_indices(), v, where.crow_indices(), mode="sum", include_last_offset=True,
                        per_sample_weights=weights.flatten()).view(queries.shape)  # fmt: skip
    return joined(y, weights.sum(-1, keepdim=True), top, rows, len(q))
