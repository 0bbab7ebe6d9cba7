"""A decode step as a graph: every operation it does, in order, with the sizes of what flows between them.

Came before: project 8's step over a `StaticCache`, in which nothing changes its shape; and `torch.compile`,
which took it as it was and said nothing. New here: we hold the graph ourselves, look at it and count it.

`torch.export` runs the step once with tensors that have sizes and no values, and notes what was called:
Python is gone, its loops are unrolled, its numbers are constants. What it cannot note it refuses, by name.

Seam: the contract, `model(tokens, positions=…, caches=…)`. Reed et al. 2021, 2112.08429 (torch.fx); Ansel
et al. 2024, ASPLOS (PyTorch 2).
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx, nn

from common.errors import UserError, demand
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for

BOOKKEEPING = {"placeholder", "output", "get_attr"}  # nodes at which nothing is computed
FREE = {"getitem", "view", "reshape", "unsqueeze", "squeeze", "transpose", "unflatten", "flatten", "chunk",
        "split", "split_with_sizes", "slice", "select", "expand", "permute", "t", "alias"}  # fmt: skip


class DecodeStep(nn.Module):
    """The model and caches of one row: forward(tokens (1, 1), positions (1, 1)) -> logits (1, 1, V).

    The caches are buffers of it, so that the graph reads and writes them where they lie.
    """

    def __init__(self, model, caches):
        super().__init__()
        held = [getattr(cache, "k", None) for cache in caches]
        demand(held and all(type(cache) is StaticCache for cache in caches) and held[0].size(0) == 1,
               "a step is captured with project 8's static caches of one row: caches_for(model, StaticCache, "
               "1, size)")  # fmt: skip
        self.model, self.caches = model, caches
        for i, cache in enumerate(caches):
            self.register_buffer(f"k{i}", cache.k)
            self.register_buffer(f"v{i}", cache.v)

    def forward(self, tokens, positions):
        caches = [Slots(getattr(self, f"k{i}"), getattr(self, f"v{i}")) for i in range(len(self.caches))]
        return self.model(tokens, positions=positions, caches=caches)


class Slots(StaticCache):
    """A static cache around tensors that are there already."""

    def __init__(self, k, v):
        self.k, self.v = k, v


def example(model):
    """Inputs of the right shapes, by which the step is captured: (tokens (1, 1), positions (1, 1))."""
    device = model.embed.weight.device
    return tuple(torch.zeros(1, 1, dtype=torch.long, device=device) for _ in range(2))


@torch.no_grad()
def capture(model, caches=None):
    """The step as a `GraphModule`: gm(tokens (1, 1), positions (1, 1)) -> logits (1, 1, V).

    Weights and caches are its attributes, the very tensors of the model and of `caches` (of one row; None:
    new ones as long as the context); gm.meta["slots"] says how many slots these have. UserError with the name
    of what is in the way where it cannot be captured.
    """
    caches = caches or caches_for(model, StaticCache, 1, model.config.max_seq_len)
    gm = graph_of(DecodeStep(model.eval(), caches), example(model))
    gm.meta["slots"] = caches[0].k.size(2)
    return gm


def graph_of(module, inputs, dynamic_shapes=None):
    """Any module as a GraphModule; UserError, in one line, for what `torch.export` refuses."""
    try:
        program = torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:  # it raises dozens of kinds, of which RuntimeError is not always a parent
        raise UserError(f"this cannot be captured as one graph: {reason(error)}") from error
    return program.module(check_guards=False)


def reason(error):
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'without a word'}"


# ---- reading a graph ----


def name_of(node):
    """What a node calls, in short: `linear`, `index_put_`, `getitem`."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet.__name__ if packet is not None else getattr(node.target, "__name__", str(node.target))


def counted(gm):
    """Counter of the operations of a graph, by `name_of`; what is bookkeeping (see above) is not counted."""
    return Counter(name_of(node) for node in gm.graph.nodes if node.op not in BOOKKEEPING)


def computing(gm):
    """How many operations touch numbers: those counted, less the FREE ones, that only look elsewhere."""
    return sum(count for name, count in counted(gm).items() if name not in FREE)


def constants(gm):
    """{name of a get_attr node's target: tensor}, the weights, caches and other constants in use."""
    targets = dict.fromkeys(node.target for node in gm.graph.nodes if node.op == "get_attr")
    return {target: look_up(gm, target) for target in targets}


def look_up(gm, target):
    """The tensor behind a dotted name."""
    owner, _, name = target.rpartition(".")
    return getattr(gm.get_submodule(owner), name)


# ---- what cannot be captured ----


@dataclass(frozen=True)
class Break:
    """A place at which a graph would end: why, and the line of the user's code."""

    why: str
    where: str


def breaks(fn, *inputs, **named):
    """The graph breaks of a call, as `torch.compile` would make them: a list of Break, empty for one graph.

    Nothing is compiled for it. `torch.compile` goes on in Python at a break; `torch.export` refuses.
    """
    torch._dynamo.reset()
    found = torch._dynamo.explain(fn)(*inputs, **named)
    torch._dynamo.reset()
    return [Break(reason_of(cut.reason), place_of(cut.user_stack)) for cut in found.break_reasons]


def reason_of(text):
    """The first line of what the compiler says, and its explanation where it gives one."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    more = [line.removeprefix("Explanation: ") for line in lines if line.startswith("Explanation: ")]
    return ": ".join([lines[0], *more[:1]])


def place_of(stack):
    """file:line and its text, of the innermost frame."""
    if not stack:
        return "unknown"
    frame = stack[-1]
    return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}: {frame.line}"


def run(gm, *inputs):
    """The naive executor, a node at a time, through fx's interpreter: slow, and the oracle of plan.py."""
    return fx.Interpreter(gm).run(*inputs)
