"""Passes that every compiler has: what changes nothing, what nobody reads, what was done before, what never
changes; and one of ours, for what depends on a position only.

A pass is a function of a graph: it rewrites it in place and returns how many nodes it changed. It keeps what
the graph computes, to rounding, and what it leaves in the caches. None of them knows what a transformer is.

The one danger is memory that is written: two reads of a cache with a write between them look the same and are
not. So nothing that touches a written tensor is ever folded, shared or dropped (`touched`).

Seam: none; this works on the graph that `capture` returns. Cocke 1970 (common subexpressions); Click 1995.
"""

import torch
from torch.fx.node import map_arg

from common.exercise import exercise

from .capture import counted, look_up, name_of
from .kernels import place, row
from .rewrite import (
    constant,
    draws,
    input_named,
    insert,
    is_a,
    place_of,
    replace,
    reshaped,
    returns_nothing,
    touched,
    val,
    writes,
)

LARGEST = 64 * 2**20  # bytes of one table
ORDERLY = ("reshape", "view", "flatten", "unflatten", "unsqueeze", "squeeze")


@exercise
def remove_dead(gm):
    """Take out what nobody reads, and then what nobody reads any more.

    Stays: inputs, the output, what `writes`, what `returns_nothing`. Returns how many went.
    """
    count = 0
    for node in reversed(list(gm.graph.nodes)):  # readers first
        stays = node.users or node.op in ("placeholder", "output") or writes(node) or returns_nothing(node)
        if not stays:
            gm.graph.erase_node(node)
            count += 1
    return count


@exercise
def drop_identities(gm):
    """Replace by their first input what gives it back unchanged; drop assertions about types and sizes.

    `dropout` outside training, `to.dtype` and `type_as` to the type that it has. `_assert_tensor_metadata`
    goes too: in a graph of fixed types it can say nothing new. Other assertions stay.
    """
    count = 0
    for node in list(gm.graph.nodes):
        name, source = name_of(node), node.args[0] if node.args else None
        same = {
            "dropout": lambda n=node: not n.args[2],
            "to": lambda n=node: val(n).dtype == val(n.args[0]).dtype and len(n.args) == 2,
            "type_as": lambda n=node: val(n).dtype == val(n.args[0]).dtype,
        }
        if node.op != "call_function":
            continue
        if name == "_assert_tensor_metadata":
            gm.graph.erase_node(node)
            count += 1
        elif name in same and same[name]():
            replace(node, source)
            count += 1
    return count


@exercise
def remove_common(gm):
    """Compute once what is computed twice: same target, same inputs, same settings. Returns how many went.

    Left alone: what is `touched`, what draws at random, placeholders. Two `get_attr` of one target are common
    too, touched or not: they are one tensor.
    """
    seen, count, kept = {}, 0, touched(gm)
    for node in list(gm.graph.nodes):
        shareable = node.op == "get_attr" or (
            node.op == "call_function" and node not in kept and not draws(node)
        )
        if not shareable:
            continue
        key = (node.op, node.target, repr(node.args), repr(node.kwargs))  # nodes have names of their own
        if key in seen:
            replace(node, seen[key])
            count += 1
        else:
            seen[key] = node
    return count


@exercise
def fold_constants(gm):
    """Compute now what depends on no input: weights, `arange`, and all that is made of them alone.

    What is `touched` is no constant, nor what draws at random. Only what others still read becomes a
    `constant`; a result that is no tensor stays as it is. Returns how many operations went.
    """
    kept, known = touched(gm), {}
    for node in gm.graph.nodes:
        if node in kept or draws(node):
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


def dependent(gm, positions):
    """The call_function nodes that read the positions, and otherwise constants alone, in order."""
    known, kept, found = {positions}, touched(gm), []
    for node in gm.graph.nodes:
        sources = node.all_input_nodes
        if (
            node.op == "call_function"
            and node not in kept
            and not writes(node)
            and node.target is not place
            and (any(s in known for s in sources) and all(s in known or s.op == "get_attr" for s in sources))
        ):
            known.add(node)
            found.append(node)
    return found


@exercise
def tabulate(gm):
    """Compute now, for each of the gm.meta["slots"] positions there can be, what depends on a position only.

    A position is an input of few values: constant folding works for it too, once for each. A tensor (…) that
    others still read becomes `row(table, at)`, with table (slots, …) a constant and `at` the position's
    number, one for all (`place_of`). Tables over LARGEST are left. Returns how many nodes went.
    """
    positions, size = input_named(gm, "positions"), gm.meta["slots"]
    nodes = dependent(gm, positions) if positions is not None else []
    last = [n for n in nodes if any(user not in nodes for user in n.users) and
            isinstance(val(n), torch.Tensor) and val(n).nbytes * size <= LARGEST]  # fmt: skip
    if not last:
        return 0
    rows, weights = {node: [] for node in last}, {}
    for at in range(size):
        known = {positions: torch.full((1, 1), at, device=val(positions).device)}
        for node in nodes:
            for source in node.all_input_nodes:
                if source.op == "get_attr":
                    known[source] = weights.setdefault(source, look_up(gm, source.target))
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


def keeps_order(node):
    """Whether it only gives other sizes to the same numbers in the same order: a transpose too, where one of
    the two dimensions has size 1."""
    if is_a(node, "transpose"):
        return 1 in (val(node).shape[node.args[1]], val(node).shape[node.args[2]])
    return any(is_a(node, name) for name in ORDERLY)


def collapse_views(gm):
    """A chain of nodes that keep the order becomes one reshape of what it began with, or nothing at all where
    the sizes are the same in the end. Returns how many nodes changed or went."""
    count = 0
    for node in list(gm.graph.nodes):
        if not keeps_order(node):
            continue
        source = node.args[0]
        while keeps_order(source):
            source = source.args[0]
        if val(source).shape == val(node).shape:
            replace(node, source)
            count += 1
        elif source is not node.args[0] or not is_a(node, "reshape"):
            replace(node, reshaped(gm, node, source, *val(node).shape))
            count += 1
    remove_dead(gm)
    return count
