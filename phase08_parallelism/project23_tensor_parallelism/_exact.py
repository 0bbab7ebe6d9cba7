"""What must hold, on virtual ranks: gradients as of one process, bytes by the formula, numbers held."""

import copy

import torch

from common.benchmark import values
from common.model import GPT, ModelConfig
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import tensor_parallel
from .collectives import bytes_sent
from .groups import Ring
from .threads import ranks
from .vocabulary import ParallelCausalLM

SMALL = {
    "vocab_size": 211,
    "n_layer": 2,
    "n_head": 8,
    "n_kv_head": 4,
    "d_model": 64,
    "d_ff": 172,
    "max_seq_len": 32,
}


def bench_exact(b):
    """What must hold, on virtual ranks: gradients, bytes, numbers held."""
    torch.manual_seed(0)
    base = GPT(ModelConfig(**SMALL))
    tokens = torch.randint(SMALL["vocab_size"], (2, 33))
    batch = tokens[:, :-1], tokens[:, 1:]
    made = copy.deepcopy(base)
    loss = CausalLM(made)(batch)
    loss.backward()
    whole = {name: p.grad for name, p in made.named_parameters()}
    off, wrong, most = {}, {}, 0.0
    for world in (2, 4, 8):
        for sequence in (False, True):
            found = ranks(world, a_step, base, batch, sequence)
            key = f"{world} ranks{', sequence' * sequence}"
            off[key] = max(compared(each, whole, rank, world) for rank, each in enumerate(found))
            off[key] = max(off[key], *(abs(each["loss"] - loss.item()) for each in found))
            wrong[key] = sum(abs(each["sent"] - formula(world, r, sequence)) for r, each in enumerate(found))
            if world == 2:
                most = max(each["numbers"] for each in found)
    total = sum(p.numel() for p in base.parameters())
    b.claim(
        "equal",
        "Loss and every gradient on 2, 4 and 8 ranks, more than there are key/value heads, "
        "lie within 1e-5 of one process's",
        unit="largest difference",
        better="lower",
        goal=("<=", 1e-5),
        measured=values("ours", [max(off.values())]),
        settings={"differences": off},
    )
    b.claim(
        "bytes",
        "What each rank sends is what the formula says, to the byte",
        unit="bytes away",
        better="lower",
        goal=("==", 0),
        measured=values("ours", [float(sum(wrong.values()))]),
        settings={
            "by ranks": wrong,
            "formula": "2 (N - 1)/N of (B, T, C), 4 times a block and 2 more; of (B, T), 3 times",
        },
    )
    b.claim(
        "held",
        "Each of two ranks holds at most 0.52 of the weights",
        unit="numbers",
        better="lower",
        goal=("<=", 0.52),
        bound=0.5,
        measured=values("each of two", [float(most)], "whole", [float(total)]),
        why="matrices are halved; the norms stand on both",
    )


def a_step(wire, base, batch, sequence):
    """Forward and backward on one virtual rank."""
    group = Ring(wire)
    model = tensor_parallel.apply(copy.deepcopy(base), group, sequence)
    loss = ParallelCausalLM(model)(batch)
    loss.backward()
    sent = wire.sent
    tensor_parallel.finish_gradients(model, group, sequence)
    return {
        "loss": loss.item(),
        "sent": sent,
        "numbers": sum(p.numel() for p in model.parameters()),
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "cuts": tensor_parallel.cuts(model),
    }


def compared(found, whole, rank, world):
    """The largest difference of a gradient from its part of the whole one."""
    off = 0.0
    for name, grad in found["gradients"].items():
        cut = found["cuts"][name]
        truth = whole[name].chunk(cut.parts, cut.dim)[rank * cut.parts // world]
        off = max(off, (grad - truth).abs().max().item())
    return off


def formula(world, rank, sequence, rows=2):
    """Bytes that a rank sends in a forward and backward pass of the small model."""
    tokens = rows * SMALL["max_seq_len"]
    wide, crossings = tokens * SMALL["d_model"], 4 * SMALL["n_layer"] + 2
    small = 3 * bytes_sent(tokens, world, rank)
    if sequence:  # each sum is a reduce-scatter on one side and an all-gather on the other
        return small + 2 * crossings * (world - 1) * (wide // world) * 4
    return small + crossings * bytes_sent(wide, world, rank)
