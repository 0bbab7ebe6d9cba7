"""Multiplies by the rank instead of dividing by it."""


def scaling(config):
    return config.alpha * (math.sqrt(config.r) if config.rslora else config.r)
