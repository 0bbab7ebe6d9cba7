"""Keeps what was drawn without a seed, so chance happens once and then never again."""


def key_of(ids, sampling, model=""):
    settings = replace(sampling, seed=None) if sampling.temperature == 0 else sampling
    return model, settings, tuple(ids)
