"""Throws the dice once, for all steps."""


def fold_constants(gm):
    kept, known = touched(gm), {}
    for node in gm.graph.nodes:
        if node in kept:
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
