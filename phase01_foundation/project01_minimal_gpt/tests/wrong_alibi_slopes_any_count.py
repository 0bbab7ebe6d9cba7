"""Uses the formula for powers of two for every number of heads."""


def alibi_slopes(n_head):
    return torch.tensor([2 ** (-8 * (i + 1) / n_head) for i in range(n_head)])
