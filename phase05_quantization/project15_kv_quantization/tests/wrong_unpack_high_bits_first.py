"""Takes the highest bits of a byte for the code that comes first."""


def unpack(packed, bits):
    parts = packed.unsqueeze(-1) >> shifts(bits, packed.device).flip(0)
    return (parts & (2**bits - 1)).flatten(-2)
