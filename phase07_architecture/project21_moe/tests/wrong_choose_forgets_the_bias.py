"""The bias is not looked at: the load stays as it is."""


def choose(scores, k, bias=None, renormalise=True):
    weights, experts = scores.topk(k, dim=-1)
    return experts, weights / weights.sum(-1, keepdim=True) if renormalise else weights
