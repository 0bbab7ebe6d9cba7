"""Puts the first weight into the highest bit."""


def pack(mask):
    flat = mask.flatten().to(torch.uint8)
    bits = F.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    return (bits << torch.arange(7, -1, -1, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
