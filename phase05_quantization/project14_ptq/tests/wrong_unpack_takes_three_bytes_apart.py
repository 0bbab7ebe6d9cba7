"""Takes each byte apart by itself: a code of 3 bits that lies across two of them is lost."""


def unpack(packed, bits, n):
    each = 8 // bits
    words = packed.unsqueeze(-1)
    shifts = (bits * torch.arange(each, device=packed.device)).to(words.dtype)
    numbers = (words >> shifts & (1 << bits) - 1).flatten(-2)[..., :n]
    return (numbers.to(torch.int16) - qmax(bits) - 1).to(torch.int8)
