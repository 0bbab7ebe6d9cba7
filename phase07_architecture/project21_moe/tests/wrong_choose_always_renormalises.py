"""The sum of the weights is always 1, also where it is not asked for."""


def choose(scores, k, bias=None, renormalise=True):
    experts = (scores if bias is None else scores + bias).topk(k, dim=-1).indices
    weights = scores.gather(-1, experts)
    return experts, weights / weights.sum(-1, keepdim=True)
