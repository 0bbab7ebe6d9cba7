"""Makes every view again in every step."""


def place_node(writer, node):
    view = None
    if view is not None:
        writer.hold(node, view)
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
