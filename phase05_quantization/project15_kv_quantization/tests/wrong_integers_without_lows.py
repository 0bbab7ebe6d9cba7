"""Forgets that a code counts from the row's low, and not from 0."""


def integer_scores(q, keys, n):
    keys = Rows(keys.table[:, :, :n], keys.bits)
    own = q.unsqueeze(2) * keys.scale.to(q.dtype).transpose(-2, -1)
    unit = own.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    whole = (own / unit).round().to(torch.int8)
    products = whole.int() @ unpack(keys.codes, keys.bits).int()
    return (products * unit).transpose(2, 3).flatten(-2)
