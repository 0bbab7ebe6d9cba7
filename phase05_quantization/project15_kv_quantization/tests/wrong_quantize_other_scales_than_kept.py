"""Makes codes for scale and low before they became float16, not for those that are kept."""


def quantize(x, bits):
    x, top = x.to(torch.promote_types(x.dtype, torch.float32)), 2**bits - 1
    low = x.amin(-1, keepdim=True)
    scale = (x.amax(-1, keepdim=True) - low) / top
    codes = ((x - low) / scale.clamp(min=1e-30)).round().clamp(0, top).to(torch.uint8)
    scale = (scale if bits == 8 else scale.clamp(min=SMALLEST)).to(TYPES[bits])
    tail = torch.cat((scale, low.to(TYPES[bits])), -1).view(torch.uint8)
    return Rows(torch.cat((pack(codes, bits), tail), -1), bits)
