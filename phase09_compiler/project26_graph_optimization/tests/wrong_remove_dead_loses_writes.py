"""Takes a write for dead, as nobody reads what it returns."""


def remove_dead(gm):
    count = 0
    for node in reversed(list(gm.graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output") and not returns_nothing(node):
            gm.graph.erase_node(node)
            count += 1
    return count
