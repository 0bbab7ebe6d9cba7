"""Puts the first code into the highest bits: every byte is the other way round."""


def pack(codes, bits):
    n, m = cycle(bits)
    numbers = F.pad(codes.int() + qmax(bits) + 1, (0, -codes.size(-1) % n)).unflatten(-1, (-1, n))
    words = (numbers << bits * torch.arange(n - 1, -1, -1, device=codes.device)).sum(-1, keepdim=True)
    return (words >> 8 * torch.arange(m, device=codes.device) & 255).to(torch.uint8).flatten(-2)
