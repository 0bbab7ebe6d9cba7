"""A small graph written by hand, in a few lines: what the tests give to a pass, and no compiler needed."""

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from .rewrite import writes


class Sketch:
    """Nodes as they are asked for; each is computed once, so that every node knows its sizes.

    draw = Sketch(); x = draw.input("x", tensor); w = draw.weight("w", tensor); y = draw(torch.mv, w, x)
    gm = draw.done(y)                   gm(x) -> (y,)
    """

    def __init__(self):
        self.graph, self.root = fx.Graph(), nn.Module()

    def input(self, name, tensor):
        return self._with(self.graph.placeholder(name), tensor)

    def weight(self, name, tensor):
        self.root.register_buffer(name, tensor)
        return self._with(self.graph.get_attr(name), tensor)

    def __call__(self, target, *args, **kwargs):
        node = self.graph.call_function(target, args, kwargs)
        args, kwargs = map_arg((args, kwargs), lambda source: source.meta["val"])
        if writes(node):
            args = (args[0].clone(), *args[1:])
        return self._with(node, target(*args, **kwargs))

    def done(self, *outputs, slots=0):
        self.graph.output(outputs)
        gm = fx.GraphModule(self.root, self.graph)
        gm.meta["slots"] = slots
        return gm

    def _with(self, node, value):
        node.meta["val"] = value
        return node


def numbers(*shape, seed=0):
    """Reproducible numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
