"""Keeps all that reach the smallest value kept: more than asked for where some are equal."""


def largest(scores, keep):
    demand(not scores.isnan().any(), "some weights or inputs are NaN: prune a model whose run was sound")
    least = scores.sort(dim=-1, descending=True).values[..., max(keep, 1) - 1 : max(keep, 1)]
    return (scores >= least) & (keep > 0)
