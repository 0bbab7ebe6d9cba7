"""Scores are not divided by the root of head_dim."""


def paged(q, k, v, view):
    look, columns, starts, where = view.matrix(q.size(1), k)
    queries, k, v = q.flatten(0, 2), k.flatten(0, 1), v.flatten(0, 1)
    scores = torch.sparse.sampled_addmm(where, queries, k.T, beta=0.0).values()
    table = scores.new_full(look.shape, -math.inf).masked_scatter_(look, scores)
    weights = table.softmax(-1)[look]
    return F.embedding_bag(columns, v, starts, mode="sum", per_sample_weights=weights,
                           include_last_offset=True).view(q.shape)  # fmt: skip
