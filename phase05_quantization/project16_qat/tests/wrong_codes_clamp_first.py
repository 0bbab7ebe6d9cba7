"""Clamps before it rounds: what lies just beyond the last code no longer learns."""


def to_codes(x, step, bits):
    most = qmax(bits)
    return Straight.apply((x / step).clamp(-most - 1, most))
