"""Folds what has no inputs, and not what is made of that."""


def fold_constants(gm):
    kept, count = touched(gm), 0
    for node in list(gm.graph.nodes):
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op == "call_function" and not node.all_input_nodes and node not in kept and not random:
            replace(node, constant(gm, node.target(*node.args, **node.kwargs)))
            count += 1
    return count
