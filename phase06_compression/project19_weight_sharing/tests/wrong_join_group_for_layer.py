"""Takes the number of a group for that of the layer which leads it."""


def join(model, plan, part):
    blocks = list(model.blocks)
    for layer, group in enumerate(plan):
        leader = blocks[group % len(blocks)]
        if part == "block":
            model.blocks[layer] = leader
        else:
            setattr(blocks[layer], part, getattr(leader, part))
