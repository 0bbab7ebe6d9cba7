"""Layout and plan: where every number will lie, decided before the first step; then a list of calls.

Came before: an interpreter that walks the graph (`capture.run`), and eager PyTorch, which does the same walk
through Python modules. Both ask again in every step how large each result is, find memory for it, and make
views that are the same as last time. New here: in a graph of fixed sizes all that has one answer.

- `choose_layout`: each weight lies in memory by rows or by columns, whichever this machine reads faster.
- `plan`: each result gets a place that it keeps; views of such places are made once, now. What is left is
  written down as a Python function without a loop and without a question, and compiled.

A step of a plan overwrites what the step before it returned. Seam: none; graphs. Chen et al. 2018, 1802.04799
(TVM: ask the machine); Pisarchyk & Lee 2020, 2001.03288 (planned memory).
"""

import time
from dataclasses import dataclass

import torch

from common.exercise import exercise

from . import kernels
from .capture import FREE, constants, look_up, name_of
from .rewrite import constant, val, writes

PRODUCTS = (kernels.product, kernels.norm_product, kernels.product_add, kernels.norm_gated)
PLACED = (*PRODUCTS, kernels.pick, kernels.turn)  # kernels that take `out`
PLAIN = (int, float, bool, str, type(None))
QUICK = {torch.ops.aten.reshape.default: torch.reshape}  # the same, with less between us and it


# ---- layout ----


def by_columns(weight):
    """The same matrix (N, C) with its columns one after the other in memory."""
    return weight.t().contiguous().t()


def swept(weights, sweeps=4):
    """Seconds that weight (N, C) times a vector takes for each weight: the shortest of some sweeps.

    All of them in each sweep, one after the other, so that each is as far from the caches as in a step.
    """
    inputs = {w.shape[1]: torch.ones(w.shape[1], dtype=w.dtype, device=w.device) for w in weights}
    places = {len(w): torch.empty(len(w), dtype=w.dtype, device=w.device) for w in weights}
    best = [float("inf")] * len(weights)
    for _ in range(sweeps):
        for i, w in enumerate(weights):
            start = time.perf_counter()
            torch.mv(w, inputs[w.shape[1]], out=places[len(w)])
            best[i] = min(best[i], time.perf_counter() - start)
    return best


@exercise
def choose_layout(gm, clock=swept):
    """Lay the weights of products out by columns where the machine reads that faster; returns how many.

    Asked by shape: weights of one shape go the same way, by the sum of what `clock(weights) -> seconds` says
    of them in their own layout and `by_columns`. The numbers are the same; rounding may differ.
    """
    nodes = [node.args[1] for node in gm.graph.nodes if node.target in PRODUCTS]
    nodes = [node for node in dict.fromkeys(nodes) if node.op == "get_attr"]
    weights = [look_up(gm, node.target).detach() for node in nodes]
    columns = [by_columns(weight) for weight in weights]
    seconds, changed = {}, 0
    for weight, was, now in zip(weights, clock(weights), clock(columns), strict=True):
        gained = seconds.get(weight.shape, 0) + was - now
        seconds[weight.shape] = gained
    for node, weight, turned in zip(nodes, weights, columns, strict=True):
        if seconds[weight.shape] > 0:
            for reader in [user for user in node.users if user.target in PRODUCTS]:
                reader.replace_input_with(node, constant(gm, turned))
            changed += 1
    return changed


# ---- plan ----


@dataclass
class Plan:
    """A step written down: call(tokens (1, 1), positions (1, 1)) -> logits, valid until the next call."""

    source: str
    call: object
    calls: int  # lines that are executed in a step
    bytes: int  # of the places that results have


class Writer:
    """The text of a plan, and the objects that its names stand for."""

    def __init__(self, gm):
        self.gm, self.lines, self.names, self.held, self.bytes = gm, [], {}, {}, 0
        self.device = next(iter(constants(gm).values())).device
        self.space, self.known = {}, {}  # {name: object}, {id of an object: name}

    def name(self, thing, start):
        """A name for an object that is there before the first step: a word, or a letter and a number."""
        free = len(start) > 1 and start not in self.space
        name = self.known.setdefault(id(thing), start if free else f"{start}{len(self.space)}")
        self.space[name] = thing  # which keeps it alive, so that its id stays its own
        return name

    def text(self, value):
        """An argument as it is written: a node by its name, numbers as they are, lists of them."""
        if isinstance(value, torch.fx.Node):
            return self.names[value]
        if isinstance(value, list | tuple):
            inside = ", ".join(map(self.text, value))
            return f"[{inside}]" if isinstance(value, list) else f"({inside},)"
        return repr(value) if isinstance(value, PLAIN) else self.name(value, "c")

    def hold(self, node, tensor, letter="b"):
        """From now on the node is this tensor, in every step."""
        self.held[node], self.names[node] = tensor, self.name(tensor, letter)

    def emit(self, node, *more, result=True):
        """One line: the node's call."""
        given = [self.text(value) for value in node.args] + list(more)
        given += [f"{key}={self.text(value)}" for key, value in node.kwargs.items()]
        call = f"{self.name(QUICK.get(node.target, node.target), name_of(node))}({', '.join(given)})"
        if result:
            self.names[node] = f"v{len(self.lines)}"
        self.lines.append(f"{self.names[node]} = {call}" if result else call)

    def view(self, node):
        """The node's tensor if it is a view of one that is held, else None."""
        if name_of(node) not in FREE or not all(source in self.held for source in node.all_input_nodes):
            return None
        args = torch.fx.node.map_arg(node.args, self.held.__getitem__)
        made, source = node.target(*args, **node.kwargs), args[0]
        one = isinstance(made, torch.Tensor) and isinstance(source, torch.Tensor)
        same = one and made.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
        return made if same else None  # a reshape that had to copy holds yesterday's numbers


@exercise
def place_node(writer, node):
    """Decide for one node that calls a function: held from now on, or a line in every step.

    - A `view` of what is held is held: no line.
    - A kernel in PLACED gets a tensor of its own, of the sizes and type of `val(node)`, on writer.device, and
      a line with `out=`; it is held. Its bytes are counted in writer.bytes.
    - One that `writes` is a line, and then held as what it wrote to, if that was held.
    - All else is a line with a result.
    """
    view = writer.view(node)
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


def plan(gm):
    """The graph as a Plan. It runs any graph that `capture` gives; what was fused it runs well."""
    writer = Writer(gm)
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            writer.names[node] = node.target
        elif node.op == "get_attr":
            writer.hold(node, look_up(gm, node.target).detach(), "w")
        elif node.op == "output":
            writer.lines.append(f"return {writer.text(node.args[0][0])}")
        else:
            place_node(writer, node)
    inputs = ", ".join(node.target for node in gm.graph.nodes if node.op == "placeholder")
    source = "\n    ".join([f"def step({inputs}):", *writer.lines]) + "\n"
    space = dict(writer.space)
    exec(compile(source, "<plan>", "exec"), space)
    return Plan(source, space["step"], len(writer.lines) - 1, writer.bytes)
