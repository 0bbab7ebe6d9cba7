"""What a computation costs on any machine: how many kernels it starts, and how many bytes they move.

Before: seconds, which differ from machine to machine and from day to day. New here: between Python and the
kernels stands torch's dispatcher, and it can be listened to. Every kernel reads its inputs from memory and
writes its outputs; a view (a slice, a transpose) moves nothing. That is the unit in which fusion pays:

    with Traffic() as found:
        model(tokens)
    found.kernels        # {"aten.mul": 12, …}
    found.bytes

Williams, Waterman, Patterson 2009, "Roofline", CACM 52(4): why bytes decide. Ivanov et al. 2021, 2007.00072
(what of a transformer's time is moving data)."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.exercise import exercise

PICKS = ("embedding", "gather", "index", "index_select")  # of a table they read what they give back, no more


def size(x):
    """The bytes of a tensor that are really there: what `expand` repeats is one place in memory."""
    numbers = 1
    for length, step in zip(x.shape, x.stride(), strict=True):
        numbers *= length if step else min(length, 1)
    return numbers * x.element_size()


@exercise
def moved(inputs, outputs, written):
    """Bytes that one kernel moves: what it reads, and what it writes; 0 for a view.

    Three lists of tensors: its inputs, its outputs, and those of the inputs that it writes into. An output is
    new unless it lies in the storage of an input (`x.untyped_storage().data_ptr()`): then it is a view, or
    the input itself after a change in place. What is written in place was read before.
    """
    places = {x.untyped_storage().data_ptr() for x in inputs}
    new = [y for y in outputs if y.untyped_storage().data_ptr() not in places]
    if not new and not written:
        return 0
    return sum(size(x) for x in [*inputs, *new, *written])


def tensors(tree):
    """All tensors in nested lists, tuples and dicts."""
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def written_by(op, args, kwargs):
    """The tensors that an operation says it writes into."""
    named = [
        (a, args[i] if i < len(args) else kwargs.get(a.name)) for i, a in enumerate(op._schema.arguments)
    ]
    return [x for a, value in named if a.alias_info and a.alias_info.is_write for x in tensors(value)]


class Traffic(TorchDispatchMode):
    """Counts while it is open: `kernels` {name: how often}, `bytes`."""

    def __init__(self):
        super().__init__()
        self.kernels, self.bytes = Counter(), 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, op.overloadpacket
        if packet is torch.ops.aten._fused_rms_norm:  # on a CPU it is fused by name alone: seven kernels
            with self:
                return norm_in_steps(*args)
        result = op(*args, **kwargs)
        inputs, outputs = tensors((args, kwargs)), tensors(result)
        if packet.__name__ in PICKS:
            inputs = [*inputs[1:], *outputs]
        count = 0 if "empty" in packet.__name__ else moved(inputs, outputs, written_by(op, args, kwargs))
        if count:
            self.kernels[str(packet)] += 1
            self.bytes += count
        return result


def norm_in_steps(x, shape, weight, eps):
    """What `aten._fused_rms_norm` runs on a CPU, as the profiler shows it."""
    rstd = (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    normed = x * rstd
    return (normed if weight is None else normed * weight), rstd
