"""Does not take the bit by itself: whatever stands above it counts too."""


def unpack(packed, shape):
    bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8)
    return bits.flatten()[: torch.Size(shape).numel()].bool().view(shape)
