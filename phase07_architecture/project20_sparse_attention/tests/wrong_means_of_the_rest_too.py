"""Also a mean of what is left over, as if it were a whole block."""


def means(k, block):
    parts = k.split(block, 2) if k.size(2) else ()
    return torch.stack([part.mean(2) for part in parts], 2) if parts else k[:, :, :0]
