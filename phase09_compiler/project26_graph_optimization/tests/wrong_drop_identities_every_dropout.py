"""Drops every dropout, training or not."""


def drop_identities(gm):
    count = 0
    for node in list(gm.graph.nodes):
        name = name_of(node)
        if name == "_assert_tensor_metadata":
            gm.graph.erase_node(node)
            count += 1
        elif name == "dropout" or (name in ("to", "type_as") and val(node).dtype == val(node.args[0]).dtype):
            replace(node, node.args[0])
            count += 1
    return count
