"""Leaves the codes positive: every weight is too large by half the grid."""


def unpack(packed, bits, n):
    each, m = cycle(bits)
    words = packed.unflatten(-1, (-1, m))
    if m > 1:
        words = (words.int() << 8 * torch.arange(m, device=packed.device)).sum(-1, keepdim=True)
    shifts = (bits * torch.arange(each, device=packed.device)).to(words.dtype)
    return (words >> shifts & (1 << bits) - 1).flatten(-2)[..., :n].to(torch.int8)
