"""Compares target and inputs, and not the settings."""


def remove_common(gm):
    seen, count, kept = {}, 0, touched(gm)
    for node in list(gm.graph.nodes):
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op != "call_function" or random or node in kept:
            continue
        key = (node.target, repr(node.args))
        if key in seen:
            replace(node, seen[key])
            count += 1
        else:
            seen[key] = node
    return count
