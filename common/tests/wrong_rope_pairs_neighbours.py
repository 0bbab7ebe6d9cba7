"""Turns neighbours, 0 with 1 and 2 with 3, where the first half pairs with the second."""


def rotate(x, rope):
    if rope is None:
        return x
    cos, sin = rope
    x1, x2 = x[..., 0::2].to(cos.dtype), x[..., 1::2].to(cos.dtype)
    return torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).flatten(-2).type_as(x)
