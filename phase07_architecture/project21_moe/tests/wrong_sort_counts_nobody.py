"""The choices that were dropped are counted as those of one expert more."""


def sort_by_expert(experts, E):
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    return order, order.argsort(), torch.bincount(flat, minlength=E)
