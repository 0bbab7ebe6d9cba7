"""Takes the last layer of a group for all of it, not the first."""


def join(model, plan, part):
    leaders = dict(zip(plan, model.blocks, strict=True))
    for layer, group in enumerate(plan):
        if part == "block":
            model.blocks[layer] = leaders[group]
        else:
            setattr(model.blocks[layer], part, getattr(leaders[group], part))
