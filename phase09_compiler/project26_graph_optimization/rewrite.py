"""What a pass asks of a graph, and how it changes one. Nothing here decides anything.

A node of fx calls one function (`target`) with other nodes and plain values (`args`); it knows who reads it
(`users`). meta["val"] is a tensor with the sizes and the type of what it gives, and no values. Nodes stand in
an order in which everything comes before its readers, and that is the order in which they run.

Seam: none; graphs. Reed et al. 2021, 2112.08429 (torch.fx).
"""

from itertools import count

import torch
from torch.fx import Node

from .capture import FREE, name_of
from .kernels import place, write

aten = torch.ops.aten

# ---- reading ----


def val(node):
    """A tensor of the sizes and the type of what a node gives; its values mean nothing."""
    return node.meta["val"]


def sized(node, *shape):
    """Such a tensor with other sizes."""
    return torch.empty(shape, dtype=val(node).dtype, device="meta")


def is_a(node, name):
    """Whether something is a node that calls this: a name as `name_of` gives it, or a function."""
    return isinstance(node, Node) and node.op == "call_function" and name in (name_of(node), node.target)


def found(gm, name):
    """The nodes that call this, as they are now."""
    return [node for node in gm.graph.nodes if is_a(node, name)]


def writes(node):
    """Whether calling it changes one of its inputs."""
    schema = getattr(node.target, "_schema", None)
    return node.target is write or (node.op == "call_function" and bool(schema and schema.is_mutable))


def returns_nothing(node):
    """Whether it is called for what it does or checks, such as an assertion."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and not schema.returns


def draws(node):
    """Whether it draws at random: no two calls give the same."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def touched(gm):
    """All nodes that are a tensor which the graph writes, or a view of one, and those that read such a node.

    What a reader gives is a tensor of its own again, so those behind it are not among them.
    """
    written = set()
    for node in filter(writes, gm.graph.nodes):
        while node.all_input_nodes:  # through views, down to the tensor itself
            node = node.args[0]
        written.add(node.target)
    memory, found = set(), set()
    for node in gm.graph.nodes:  # in order: inputs come before those that read them
        reads = any(source in memory for source in node.all_input_nodes)
        root = node.op == "get_attr" and node.target in written
        if root or (reads and (writes(node) or name_of(node) in FREE)):
            memory.add(node)
        if node.op != "output" and (reads or node in memory):
            found.add(node)
    return found


def input_named(gm, name):
    """The placeholder of that name, or None."""
    return next((n for n in gm.graph.nodes if n.op == "placeholder" and n.target == name), None)


# ---- changing ----


def constant(gm, tensor):
    """A new node that holds a tensor, at the beginning of the graph."""
    name = next(name for i in count() if not hasattr(gm, name := f"constant_{i}"))
    gm.register_buffer(name, tensor.detach(), persistent=False)
    with gm.graph.inserting_before(next(iter(gm.graph.nodes))):
        node = gm.graph.get_attr(name)
    node.meta["val"] = tensor.detach()
    return node


def insert(gm, before, target, *args, val):
    """A new node in front of another. val: a tensor of the sizes and type of what it gives, or a number."""
    with gm.graph.inserting_before(before):
        node = gm.graph.call_function(target, args)
    node.meta["val"] = val
    return node


def replace(node, by):
    """Have all that read a node read another, and take it out."""
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def reshaped(gm, before, node, *shape):
    """The node seen with other sizes."""
    return insert(gm, before, aten.reshape.default, node, list(shape), val=sized(node, *shape))


def part(gm, before, node, dim, start, end):
    """The part of a node from start to end along one dimension, which is seen and not copied."""
    size = list(val(node).shape)
    size[dim] = end - start
    return insert(gm, before, aten.slice.Tensor, node, dim, start, end, val=sized(node, *size))


def single(node):
    """Whether it has one row (…, C), all other sizes being 1."""
    return val(node).numel() == val(node).shape[-1]


def forget(gm):
    """Let go of the constants that no node holds any more."""
    held = {node.target for node in gm.graph.nodes if node.op == "get_attr"}
    for name in [name for name in gm._buffers if name.startswith("constant_") and name not in held]:
        delattr(gm, name)


def place_of(gm, positions):
    """The node of the position's number, below gm.meta["slots"]; made where there is none."""
    for node in gm.graph.nodes:
        if node.target is place:
            return node
    return insert(gm, positions.next, place, positions, gm.meta["slots"], val=0)
