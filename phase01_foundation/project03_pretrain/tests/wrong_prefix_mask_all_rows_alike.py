"""Gives every row the length of the first."""


def prefix_mask(lengths, T):
    place = torch.arange(T, device=lengths.device)
    causal = place[:, None] >= place[None, :]
    return (causal | (place[None, :] < lengths[0])).expand(len(lengths), 1, T, T)
