"""Forgets the last weights where eight do not divide them."""


def pack(mask):
    flat = mask.flatten().to(torch.uint8)
    bits = flat[: len(flat) // 8 * 8].view(-1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
