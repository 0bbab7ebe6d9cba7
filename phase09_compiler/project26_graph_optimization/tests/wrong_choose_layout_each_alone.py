"""Asks for each weight alone: one unlucky run decides."""


def choose_layout(gm, clock=swept):
    nodes = [node.args[1] for node in gm.graph.nodes if node.target in PRODUCTS]
    nodes = [node for node in dict.fromkeys(nodes) if node.op == "get_attr"]
    weights = [look_up(gm, node.target).detach() for node in nodes]
    columns = [by_columns(weight) for weight in weights]
    seconds, changed = {}, 0
    for i, (was, now) in enumerate(zip(clock(weights), clock(columns), strict=True)):
        seconds[i] = seconds.get(i, 0) + was - now
    for i, (node, turned) in enumerate(zip(nodes, columns, strict=True)):
        if seconds[i] > 0:
            for reader in [user for user in node.users if user.target in PRODUCTS]:
                reader.replace_input_with(node, constant(gm, turned))
            changed += 1
    return changed
