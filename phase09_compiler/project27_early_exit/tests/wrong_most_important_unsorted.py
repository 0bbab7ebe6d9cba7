"""The places in the order of their weights, so that the text is shuffled."""


def most_important(weights, count):
    weights = weights.clone()
    weights[-1] = torch.inf
    return weights.topk(count).indices
