"""Never clamps: codes that the bits cannot hold."""


def to_codes(x, step, bits):
    return Straight.apply(x / step)
