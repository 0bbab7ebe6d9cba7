"""Goes from the front, so that only the last of a dead chain goes."""


def remove_dead(gm):
    count = 0
    for node in list(gm.graph.nodes):
        stays = node.users or node.op in ("placeholder", "output") or writes(node) or returns_nothing(node)
        if not stays:
            gm.graph.erase_node(node)
            count += 1
    return count
