"""Puts a copy of the leader into each layer: alike, until the first update."""


def join(model, plan, part):
    leaders = {}
    for layer, group in enumerate(plan):
        leader = copy.deepcopy(leaders.setdefault(group, model.blocks[layer]))
        if part == "block":
            model.blocks[layer] = leader
        else:
            setattr(model.blocks[layer], part, getattr(leader, part))
