"""Each piece's largest score is taken away from it, and then pieces are added as if they had one scale."""


def paged(q, k, v, view):
    (where, hidden), (rows, _) = view.matrix(q.size(1), k), view.pieces
    k, v, queries = k.flatten(0, 2), v.flatten(0, 2), q[rows]
    scale, top = q.size(3) ** -0.5, q.new_full((*q.shape[:3], 1), -math.inf)
    scores = torch.sparse.sampled_addmm(where, queries.flatten(0, 2), k.T, beta=0.0, alpha=scale, out=where)
    scores = scores.values().view(*queries.shape[:3], -1).add_(hidden)
    highest = scores.amax(-1, keepdim=True)
    top.scatter_reduce_(0, rows.view(-1, 1, 1, 1).expand_as(highest), highest, "amax")
    weights = scores.sub_(highest.clamp(min=-1e30)).exp_()
    y = F.embedding_bag(where.col_indices(), v, where.crow_indices(), mode="sum", include_last_offset=True,
                        per_sample_weights=weights.flatten()).view(queries.shape)  # fmt: skip
    y, total = (torch.zeros_like(q[..., : x.size(3)]).index_add_(0, rows, x)
                for x in (y, weights.sum(-1, keepdim=True)))  # fmt: skip
    return y / total
