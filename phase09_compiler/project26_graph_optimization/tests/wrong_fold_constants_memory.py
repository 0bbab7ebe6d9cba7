"""Takes a cache for a constant: what it held when the graph was made."""


def fold_constants(gm):
    kept, known = [n for n in gm.graph.nodes if writes(n)], {}
    for node in gm.graph.nodes:
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node in kept or random:
            continue
        if node.op == "get_attr":
            known[node] = look_up(gm, node.target)
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), known.get)
            known[node] = node.target(*args, **kwargs)
    before = counted(gm).total()
    for node, value in known.items():
        read = any(user not in known for user in node.users)
        if node.op == "call_function" and read and isinstance(value, torch.Tensor):
            node.replace_all_uses_with(constant(gm, value))
    remove_dead(gm)
    return before - counted(gm).total()
