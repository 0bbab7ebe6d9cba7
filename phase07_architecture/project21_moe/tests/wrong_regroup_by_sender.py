"""The rows stay as they came, sender by sender."""


def regroup(coming):
    order = torch.arange(int(coming.sum()), device=coming.device)
    return order, order
