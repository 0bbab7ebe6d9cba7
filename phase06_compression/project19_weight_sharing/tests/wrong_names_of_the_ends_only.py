"""Knows of the tie between embedding and head, and of no other sharing."""


def names(model):
    found = {parameter: [name] for name, parameter in model.named_parameters()}
    if model.head.weight is model.embed.weight:
        found[model.head.weight].append("head.weight")
    return found
