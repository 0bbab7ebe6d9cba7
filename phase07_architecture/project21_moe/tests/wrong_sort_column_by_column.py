"""All first choices, then all second ones: choice c is not token c // k's."""


def sort_by_expert(experts, E):
    flat = experts.T.flatten()
    order = flat.argsort(stable=True)
    return order, order.argsort(), torch.bincount(flat, minlength=E + 1)[:E]
