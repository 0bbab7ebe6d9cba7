"""The bias is in the weights too, so that balance changes what is computed."""


def choose(scores, k, bias=None, renormalise=True):
    weights, experts = (scores if bias is None else scores + bias).topk(k, dim=-1)
    return experts, weights / weights.sum(-1, keepdim=True) if renormalise else weights
