"""Looks at the first hundred tokens only: long prompts that begin alike share an answer."""


def key_of(ids, sampling, model=""):
    if sampling.temperature > 0 and sampling.seed is None:
        return None
    settings = replace(sampling, seed=None) if sampling.temperature == 0 else sampling
    return model, settings, tuple(ids[:100])
