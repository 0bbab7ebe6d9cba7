"""Reads the lower half of each byte first: every pair of weights changes places."""


def dequantize(packed, shape, dtype=torch.float32):
    pairs = F.embedding(packed.codes.int(), byte_pairs(packed.codes.device).flip(1))
    values = in_blocks(pairs, BLOCK) * dequantize_scales(packed)[:, None]
    return values.flatten()[: math.prod(shape)].view(shape).to(dtype)
