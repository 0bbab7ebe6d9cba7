"""Lines of Python that torch.compile cannot take into its graph, each in a feed-forward of its own."""

import ctypes
import logging

import torch
import torch.nn.functional as F


def clean(x, w):
    return F.silu(x @ w) * 2


def printed(x, w):
    y = x @ w
    print(end="")
    return F.silu(y) * 2


def asked(x, w):
    y = x @ w
    if y.sum().item() > 0:  # the host waits for a number, to decide which way to go
        y = y + 1
    return F.silu(y) * 2


def left(x, w):
    y = x @ w
    y = torch.from_numpy(y.detach().numpy() * 1) if not torch.compiler.is_compiling() else outside(y)
    return F.silu(y) * 2


@torch.compiler.disable
def outside(y):
    return torch.from_numpy(y.detach().numpy() * 1)


def foreign(x, w):
    y = (x @ w).contiguous()
    ctypes.memset(y.data_ptr(), 0, 0)  # a library that is called past torch's dispatcher
    return F.silu(y) * 2


CAUSES = {"clean": clean, "print": printed, "a number asked for": asked, "NumPy outside the graph": left,
          "a library called by address": foreign}  # fmt: skip


def explained(fn, *inputs):
    """(graphs, breaks, why) as torch.compile finds them."""
    torch._dynamo.reset()
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # the reasons come back as values
    found = torch._dynamo.explain(fn)(*inputs)
    return found.graph_count, found.graph_break_count, [first_line(r.reason) for r in found.break_reasons]


def first_line(text):
    """The line of a reason that says it."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "not said")
