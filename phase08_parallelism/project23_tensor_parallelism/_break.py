"""Sums left out, copies that part, a bias that is added N times, dropout that differs."""

import copy

import torch
from torch import nn

from common import plots
from common.model import GPT, ModelConfig

from . import tensor_parallel
from ._lab import plain, without_f, without_g
from .crew import Crew
from .groups import Library, Ring
from .regions import Region
from .tensor_parallel import RowLinear, share
from .threads import ranks
from .vocabulary import ParallelCausalLM

WORLD = 4  # twice the key/value heads of the small model

# name: (what is done to the model, sequence parallelism, are gradients finished)
MISTAKES = {
    "nothing left out": (plain, False, True),
    "no sum behind the products (g)": (without_g, False, True),
    "no sum of what flows back (f)": (without_f, False, True),
    "copies of heads not summed": (plain, False, False),
    "norms not summed, sequence": (plain, True, False),
}


def mistakes(lab):
    """The small model on four ranks, with one sum left out at a time; its loss beside one process's."""
    alone, _ = lab.trained(1)
    fig, ((left, right),) = plots.figure(1, 2, width=13, height=5)
    found = {}
    for name, (dress, sequence, finish) in MISTAKES.items():
        losses, distances = lab.trained(WORLD, dress, sequence=sequence, finish=finish)
        off = [abs(a - b) for a, b in zip(losses, alone, strict=True)]
        left.plot(range(1, len(off) + 1), [max(x, 1e-8) for x in off], label=name)
        right.plot(range(1, len(off) + 1), [max(x, 1e-8) for x in distances], label=name)
        lab.say(f"  {name}: loss {losses[-1]:.4f} (one process {alone[-1]:.4f}); copies up to "
                f"{distances[-1]:.1e} apart")  # fmt: skip
        found |= {f"{name}, loss": losses[-1] - alone[-1], f"{name}, apart": distances[-1]}
    for ax, what in (
        (left, "loss, nats away from one process"),
        (right, "copies of one weight, at most apart"),
    ):
        ax.set_yscale("log")
        ax.set(xlabel="update", ylabel=what)
    plots.legend(right, loc="center right")
    lab.save(fig, "mistakes.png")
    return found


def copies(lab):
    """More ranks than key/value heads: what one rank's copy of wk sees of its gradient."""
    row = lab.rows[0]
    batch = row[:, :-1], row[:, 1:]

    def work(wire):
        group = Ring(wire)
        model = tensor_parallel.apply(copy.deepcopy(lab.base), group)
        ParallelCausalLM(model)(batch).backward()
        grad = model.blocks[0].attn.wk.weight.grad
        before = grad.clone()
        tensor_parallel.finish_gradients(model, group)
        return (before.norm() / grad.norm()).item(), torch.cosine_similarity(
            before.flatten(), grad.flatten(), dim=0).item()  # fmt: skip

    found = {}
    for rank, (length, angle) in enumerate(ranks(WORLD, work)):
        lab.say(
            f"  rank {rank}: its own share is {length:.2f} as long as the whole gradient, cosine {angle:.2f}"
        )
        found |= {f"rank {rank}, length": length, f"rank {rank}, cosine": angle}
    return found


@torch.no_grad()
def bias(lab):
    """A row layer whose bias is added before the sum: off by N - 1 biases."""
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 8), torch.randn(4, 32)

    class Before(RowLinear):
        def forward(self, x):
            return self.region.leave(nn.functional.linear(x, self.weight, self.bias))

    found = {}
    for world in (1, 2, 4):
        for name, kind in (("added once", RowLinear), ("added by each rank", Before)):

            def work(wire, kind=kind):
                start, stop = share(32, wire.rank, wire.world)
                return kind(linear, start, stop, Region(Ring(wire)))(x[:, start:stop])

            off = (ranks(world, work)[0] - linear(x)).mean(0) @ linear.bias / linear.bias.square().sum()
            found[f"{name}, {world}"] = off.item()
            lab.say(f"  {world} ranks, {name}: off by {off:.2f} biases")
    return found


def hidden(rank, world, sizes):
    """{name: how far the ranks' hidden vectors, and their losses, lie apart}, with seeds alike or not."""
    torch.manual_seed(0)
    model = tensor_parallel.apply(GPT(ModelConfig(**sizes)), Library())
    tokens = torch.randint(256, (2, 16))

    def task(seed):
        def run():
            torch.manual_seed(seed)
            with torch.no_grad():
                x = Library().all_gather(model.hidden(tokens)[None], 0)
            return (x - x[:1]).abs().max().item()

        return run

    return {"one seed": task(7), "a seed for each rank": task(7 + rank)}


def dropout(lab):
    """Dropout behind the sum, with one seed on two processes, and with two: are they still one model?"""
    sizes = {"vocab_size": 256, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 64,
             "max_seq_len": 64, "dropout": 0.1}  # fmt: skip
    found = {}
    with Crew(2, hidden, sizes) as crew:
        for name in crew.tasks:
            found[name] = crew(name)
            lab.say(f"  {name}: hidden numbers of the two ranks up to {found[name]:.2g} apart")
    return found
