"""Puts the weights in reverse, and the parts not."""


def merge_products(gm):
    groups, count = {}, 0
    for node in found(gm, "linear"):
        if len(node.args) == 2:
            groups.setdefault(node.args[0], []).append(node)
    for x, nodes in groups.items():
        if len(nodes) < 2:
            continue
        first = nodes[0]
        weights = [look_up(gm, node.args[1].target) for node in nodes]
        weight, start = constant(gm, torch.cat(weights[::-1])), 0
        shape = [*val(x).shape[:-1], len(weight.meta["val"])]
        merged = insert(gm, first, aten.linear.default, x, weight, val=sized(x, *shape))
        parts = []
        for own in weights:
            parts.append(part(gm, first, merged, len(shape) - 1, start, start + len(own)))
            start += len(own)
        for node, new in zip(nodes, parts, strict=True):
            replace(node, new)
        count += len(nodes) - 1
    return count
