"""Leaves out the last position."""


def tabulate(gm):
    positions, size = input_named(gm, "positions"), gm.meta["slots"]
    nodes = dependent(gm, positions) if positions is not None else []
    last = [n for n in nodes if any(user not in nodes for user in n.users)]
    if not last:
        return 0
    rows = {node: [] for node in last}
    for at in range(size - 1):
        known = {positions: torch.full((1, 1), at)}
        for node in nodes:
            for source in node.all_input_nodes:
                if source.op == "get_attr":
                    known[source] = look_up(gm, source.target)
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
        for node in last:
            rows[node].append(known[node])
    before, at = len(gm.graph.nodes), place_of(gm, positions)
    for node in last:
        table = constant(gm, torch.stack(rows[node]))
        node.replace_all_uses_with(insert(gm, node, row, table, at, val=val(node)))
    remove_dead(gm)
    return max(1, before - len(gm.graph.nodes))
