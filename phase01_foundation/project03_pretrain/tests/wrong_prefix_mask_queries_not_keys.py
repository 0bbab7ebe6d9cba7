"""Opens the rows of the prefix instead of its columns: a prefix token sees the whole future."""


def prefix_mask(lengths, T):
    place = torch.arange(T, device=lengths.device)
    causal = place[:, None] >= place[None, :]
    given = place[None, :, None] < lengths[:, None, None]
    return (causal | given)[:, None]
