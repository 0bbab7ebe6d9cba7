"""Takes the lowest and the highest number of all rows together."""


def quantize(x, bits):
    x, top = x.to(torch.promote_types(x.dtype, torch.float32)), 2**bits - 1
    one = torch.ones_like(x[..., :1])
    low = (x.amin() * one).to(TYPES[bits])
    scale = (x.amax() - low) / top
    scale = (scale if bits == 8 else scale.clamp(min=SMALLEST)).to(TYPES[bits])
    codes = ((x - low) / scale.clamp(min=1e-30)).round().clamp(0, top).to(torch.uint8)
    return Rows(torch.cat((pack(codes, bits), torch.cat((scale, low), -1).view(torch.uint8)), -1), bits)
