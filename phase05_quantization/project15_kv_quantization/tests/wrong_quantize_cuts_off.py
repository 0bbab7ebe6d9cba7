"""Cuts off what is behind the point, instead of rounding to the nearest step."""


def quantize(x, bits):
    x, top = x.to(torch.promote_types(x.dtype, torch.float32)), 2**bits - 1
    low = x.amin(-1, keepdim=True).to(TYPES[bits])
    scale = (x.amax(-1, keepdim=True) - low) / top
    scale = (scale if bits == 8 else scale.clamp(min=SMALLEST)).to(TYPES[bits])
    codes = ((x - low) / scale.clamp(min=1e-30)).clamp(0, top).to(torch.uint8)
    return Rows(torch.cat((pack(codes, bits), torch.cat((scale, low), -1).view(torch.uint8)), -1), bits)
