"""Shares two reads of a tensor that is written in between."""


def remove_common(gm):
    seen, count = {}, 0
    for node in list(gm.graph.nodes):
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op not in ("call_function", "get_attr") or random or writes(node):
            continue
        key = (node.op, node.target, repr(node.args), repr(node.kwargs))
        if key in seen:
            replace(node, seen[key])
            count += 1
        else:
            seen[key] = node
    return count
