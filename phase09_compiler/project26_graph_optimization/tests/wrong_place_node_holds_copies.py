"""Holds a reshape that had to copy: every step reads the numbers of the first."""


def place_node(writer, node):
    known = name_of(node) in FREE and all(source in writer.held for source in node.all_input_nodes)
    if known:
        args = torch.fx.node.map_arg(node.args, writer.held.__getitem__)
        writer.hold(node, node.target(*args, **node.kwargs))
    elif node.target in PLACED:
        place = torch.empty(val(node).shape, dtype=val(node).dtype, device=writer.device)
        writer.bytes += place.nbytes
        writer.hold(node, place)
        writer.emit(node, f"out={writer.names[node]}", result=False)
    elif writes(node) and node.args[0] in writer.held:
        writer.names[node] = writer.names[node.args[0]]
        writer.emit(node, result=False)
        writer.hold(node, writer.held[node.args[0]])
    else:
        writer.emit(node)
