"""What goes wrong: sizes that were fixed, operators that are lacking, caches that travel."""

import torch
from torch import nn

from common import plots
from common.errors import UserError
from common.model import GPT
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for

from ._lab import fastest
from .capture import breaks, capture, graph_of
from .exporters import PastStep, no_past, open_sizes, to_onnx
from .optimise import Optimised

# ---- dynamic shapes ----


class Counting(nn.Module):
    """A step over project 8's counting cache, whose length is a number of Python."""

    def __init__(self, model, caches):
        super().__init__()
        self.model, self.caches = model, caches

    def forward(self, tokens, positions):
        return self.model(tokens, positions=positions, caches=self.caches)


@torch.no_grad()
def shapes(lab):
    """A graph has the sizes that it was captured with, and a number of Python is one of them."""
    model = lab.model
    gm, found = capture(model), {}
    for B, T in ((1, 1), (1, 2), (2, 1)):
        tokens = torch.zeros(B, T, dtype=torch.long)
        positions = torch.arange(T).expand(B, -1)
        try:
            gm(tokens, positions)
            said = "runs"
        except (RuntimeError, AssertionError, ValueError) as error:
            said = f"refused: {str(error).splitlines()[0][:90]}"
        lab.say(f"  captured for (1, 1), given {(B, T)}: {said}")
        found[f"runs {B}, {T}"] = float(said == "runs")
    caches = caches_for(model, KVCache, 1, 64)
    ids = lab.text(12)
    model(torch.tensor([ids[:4]]), caches=caches)
    try:
        baked = graph_of(Counting(model, caches), (torch.tensor([ids[4:5]]), torch.tensor([4])))
        said, off = "captured", off_by(model, baked, ids)
        lab.say(f"  a counting cache: its length 4 is a constant of the graph; the next steps are off by "
                f"{', '.join(f'{x:.2g}' for x in off)}")  # fmt: skip
        found["length is a constant, off by"] = max(off)
    except UserError as error:
        lab.say(f"  a counting cache: {error}")
        found["length is a constant, off by"] = float("nan")
    tokens, past = torch.zeros(2, 3, dtype=torch.long), no_past(model, 2, 5)
    open_ = graph_of(PastStep(model), (tokens, *past), open_sizes(model))
    for B, T, P in ((1, 1, 7), (3, 4, 9)):
        got = open_(torch.ones(B, T, dtype=torch.long), *no_past(model, B, P))[0]
        lab.say(f"  open sizes: B {B}, T {T}, P {P} gives {tuple(got.shape)}")
        found[f"open {B}, {T}, {P}"] = got.numel()
    return found


def off_by(model, baked, ids):
    """How far the logits of steps 5, 6, 7 are from the truth, where the graph believes that it is step 4."""
    truth, found = model(torch.tensor([ids])), []
    for at in (4, 5, 6, 7):
        got = baked(torch.tensor([ids[at : at + 1]]), torch.tensor([at]))
        found.append((got[0, -1] - truth[0, at]).abs().max().item())
    return found[1:]


# ---- operators ----


class Odd(nn.Module):
    """A feed-forward that asks its numbers a question, and calls what ONNX has no word for."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        if self.kind == "question" and x.sum().item() > 0:  # the graph depends on a number
            return x
        if self.kind == "operator":
            return torch.ops.aten.igamma(x.abs() + 1, x.abs())  # there is no such operator in ONNX
        return torch.sin(x)


@torch.no_grad()
def operators(lab):
    """What cannot be captured, and what cannot be exported, by name."""
    tokens, found = torch.zeros(1, 4, dtype=torch.long), {}
    for kind in ("plain", "question", "operator"):
        model, path = tiny(lab.model), lab.folder / f"{kind}.onnx"
        model.blocks[0].ffn = Odd(kind)
        cuts = breaks(model, tokens)
        lab.say(f"  {kind}: {len(cuts)} graph breaks")
        for one in cuts:
            lab.say(f"    {one.why}\n    at {one.where}")
        found[f"{kind}, breaks"] = len(cuts)
        ways = {
            "one graph": lambda m=model: graph_of(m, (tokens,)),
            "ONNX": lambda m=model, p=path: to_onnx(m, p),
        }
        for name, tried in ways.items():
            said = refusal(tried)
            lab.say(f"    {name}: {said or 'yes'}")
            found[f"{kind}, {name}"] = float(not said)
    return found


def refusal(call):
    """What a call says that is refused, in short; empty where it is not."""
    try:
        call()
    except UserError as error:
        return str(error)[:200]
    return ""


def tiny(model):
    """A model of one small block: what is looked at is what is refused, not what it says."""
    config = type(model.config)(vocab_size=32, n_layer=1, n_head=2, n_kv_head=1, d_model=16, d_ff=16,
                                max_seq_len=64)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        return GPT(config).eval()


# ---- a cache that travels ----


@torch.no_grad()
def cache(lab):
    """The same step, with a cache that goes in and comes out, and with one that stays: time by its length."""
    rows, found = [], {}
    for size in lab.config.sizes:
        steps = lab.steps_of(size)
        step, travels = Optimised(lab.model, steps.caches), PastStep(lab.model)
        kept = [x for held in steps.caches for x in (held.k, held.v)]
        past = tuple(x[:, :, : size - 1].clone() for x in kept)
        token = steps.ids[:, -1:]
        inside = fastest(lambda s=step, t=steps: t(s), lab.config.seconds)
        eager = fastest(lambda t=steps: t(lab.model), lab.config.seconds)
        out = fastest(lambda p=past, x=token, m=travels: m(x, *p), lab.config.seconds)
        moved = 2 * sum(x.nbytes for x in past) / 1e6
        lab.say(f"  {size:5} slots: in and out {1e3 * out:6.2f} ms, static {1e3 * eager:6.2f} ms, in place "
                f"{1e3 * inside:6.2f} ms; {moved:.1f} MB travel in each step")  # fmt: skip
        rows.append((size, out, eager, inside))
        found |= {f"in and out, {size}": 1e3 * out, f"in place, {size}": 1e3 * inside}
    fig, ((ax,),) = plots.figure()
    for i, name in enumerate(("in and out (eager)", "static, masked (eager)", "in place, filled (ours)"), 1):
        ax.plot([row[0] for row in rows], [1e3 * row[i] for row in rows], "o-", label=name)
    ax.set(xlabel="tokens in the cache", ylabel="ms a token", ylim=(0, None))
    plots.legend(ax)
    lab.save(fig, "cache.png")
    return found
