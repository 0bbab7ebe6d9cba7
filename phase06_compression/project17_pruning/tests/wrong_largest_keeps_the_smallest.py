"""Sorts the wrong way round: the least important stay."""


def largest(scores, keep):
    demand(not scores.isnan().any(), "some weights or inputs are NaN: prune a model whose run was sound")
    order = scores.argsort(dim=-1, stable=True)[..., :keep]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)
