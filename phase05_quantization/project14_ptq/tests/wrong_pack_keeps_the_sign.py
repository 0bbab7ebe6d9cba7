"""Packs negative codes as they are: their sign bits run over into the neighbours."""


def pack(codes, bits):
    n, m = cycle(bits)
    numbers = F.pad(codes.int(), (0, -codes.size(-1) % n)).unflatten(-1, (-1, n))
    words = (numbers << bits * torch.arange(n, device=codes.device)).sum(-1, keepdim=True)
    return (words >> 8 * torch.arange(m, device=codes.device) & 255).to(torch.uint8).flatten(-2)
