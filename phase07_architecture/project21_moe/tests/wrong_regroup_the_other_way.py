"""The senders are taken for the experts."""


def regroup(coming):
    W, L = coming.shape
    expert = torch.arange(W, device=coming.device).repeat_interleave(L).repeat_interleave(coming.flatten())
    order = expert.argsort(stable=True)
    return order, order.argsort()
