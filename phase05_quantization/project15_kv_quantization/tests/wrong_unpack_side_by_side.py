"""Puts all low codes first and then all high ones, as if neighbours did not share a byte."""


def unpack(packed, bits):
    parts = packed.unsqueeze(-2) >> shifts(bits, packed.device)[:, None]
    return (parts & (2**bits - 1)).flatten(-2)
