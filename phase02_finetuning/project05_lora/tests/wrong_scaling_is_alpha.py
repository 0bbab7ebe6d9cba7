"""Takes alpha itself for the scale."""


def scaling(config):
    return config.alpha / 1
