"""What there is to break: the rescale, the maximum, the edge of a tile; and, whole, a training through it."""

import math
from contextlib import contextmanager
from itertools import accumulate

import torch

from common import plots
from common.generate import Sampling, generate
from common.model import GPT, ModelConfig, attend, set_attend
from common.recipe import TrainConfig, adamw, learning_rate
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import tiled
from ._sides import causal, inputs

PROMPT = "The "


# ---- one part left out -------------------------------------------------------------------------------------


def without_rescale(state, scores, v):
    """`tiled.fold`, but what was summed under the old maximum stays as it is."""
    m, l, y = state
    largest = torch.maximum(m, scores.amax(-1, keepdim=True))
    p = (scores - largest).exp()
    return largest, l + p.sum(-1, keepdim=True), y + p @ v


def without_maximum(state, scores, v):
    """`tiled.fold`, but exp of the scores as they are."""
    m, l, y = state
    p = scores.exp()
    return torch.zeros_like(m), l + p.sum(-1, keepdim=True), y + p @ v


def mean(state):
    """`tiled.finish`, where the sum may be less than 1 as no maximum was taken off."""
    _, l, y = state
    return y / l, l.log()


def in_reach_leaking(reach, start, stop):
    """`tiled.in_reach`, but <= for <: wherever something has to be hidden, each query sees the next token."""
    return torch.arange(start, stop, device=reach.device) <= reach[..., None]


@contextmanager
def broken(**functions):
    """Within `with`, tiled has these of its functions replaced."""
    right = {name: getattr(tiled, name) for name in functions}
    vars(tiled).update(functions)
    try:
        yield
    finally:
        vars(tiled).update(right)


def rescale(lab):
    """Omit the rescale: right in the first tile of keys, and wrong from then on."""
    T, size = 256, 32
    q, k, v = inputs(1, 8, 8, T, 32)
    fig, ((ax,),) = plots.figure(height=3.6)
    found = {}
    for sharp, colour in ((1, plots.COLOURS[5]), (4, plots.COLOURS[1])):
        want = tiled.flash((sharp * q).double(), k.double(), v.double(), causal(T))
        with broken(fold=without_rescale):
            off = (tiled.flash(sharp * q, k, v, causal(T), size=size) - want).abs().amax((0, 1, 3))
        ax.plot(off.cpu().numpy(), color=colour, label=f"scores of spread {sharp}")
        found |= {f"spread {sharp}: first tile": off[:size].max().item(), f"spread {sharp}": off.max().item()}
        lab.say(
            f"  scores of spread {sharp}: {off[:size].max():.1e} off in the first tile, "
            f"{off.max():.2f} after it"
        )
    ax.axvline(size, color=plots.QUIET, linewidth=1, linestyle=":")
    ax.set(
        xlabel=f"query; tiles of {size}", ylabel="largest error", title="without the rescale", ylim=(-0.1, 4)
    )
    plots.legend(ax)
    lab.save(fig, "rescale.png")
    return found


def maximum(lab):
    """No maximum taken off: nothing happens while scores are small, and then it is NaN after NaN."""
    spreads, found = [1, 2, 5, 10, 20, 30, 50, 100], {"right": [], "without": []}
    for spread in spreads:
        q, k, v = inputs(1, 4, 4, 128, 32)
        want = tiled.flash((spread * q).double(), k.double(), v.double(), causal(128))
        found["right"].append(tiled.flash(spread * q, k, v, causal(128), size=32))
        with broken(fold=without_maximum, finish=mean):
            found["without"].append(tiled.flash(spread * q, k, v, causal(128), size=32))
        ok = {side: ((ys[-1] - want).abs() < 1e-3).float().mean().item() for side, ys in found.items()}
        lab.say(
            f"  spread {spread:3}: {ok['right']:4.0%} of the numbers are right, without the maximum "
            f"{ok['without']:4.0%}"
        )
        for side in found:
            found[side][-1] = ok[side]
    fig, ((ax,),) = plots.figure(height=3.4)
    for side, colour in (("right", plots.COLOURS[0]), ("without", plots.COLOURS[1])):
        label = "with the maximum" if side == "right" else "exp of the scores as they are"
        ax.plot(spreads, [100 * share for share in found[side]], marker="o", color=colour, label=label)
    ax.set(xscale="log", xlabel="spread of the scores", ylabel="right numbers, %", ylim=(-5, 108))
    ax.set_xticks(spreads, map(str, spreads))
    ax.minorticks_off()
    plots.legend(ax, loc="center left")
    lab.save(fig, "maximum.png")
    return {f"{side}, spread {spread}": share for side in found
            for spread, share in zip(spreads, found[side], strict=True)}  # fmt: skip


# ---- trainings ---------------------------------------------------------------------------------------------


class Town:
    """TinyTown as bytes, and small models that learn it: the same start and the same batches for all."""

    def __init__(self, lab, context=64, rows=16):
        self.lab, self.context, self.rows = lab, context, rows
        text, pages = "", TinyTown().pages()
        while len(text) < lab.config.characters:
            text += next(pages) + "\n"
        ids = torch.tensor(list(text.encode()))
        self.ids, self.held_out = ids[: -20 * context].to(lab.device), ids[-20 * context :].to(lab.device)

    def batch(self, step):
        draw = torch.Generator().manual_seed(step)
        at = torch.randint(len(self.ids) - self.context, (self.rows, 1), generator=draw).to(self.ids.device)
        windows = self.ids[at + torch.arange(self.context + 1, device=at.device)]
        return windows[:, :-1], windows[:, 1:]

    def trained(self, fn):
        """(model, losses): every update computed through fn."""
        torch.manual_seed(0)
        sizes = {"vocab_size": 256, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 64, "d_ff": 160}
        model = set_attend(GPT(ModelConfig(max_seq_len=self.context, **sizes)), fn).to(self.lab.device)
        steps, objective, losses = self.lab.config.steps, CausalLM(model), []
        config = TrainConfig(steps=steps, warmup=steps // 10, learning_rate=3e-3)
        optimizer = adamw(objective, config)
        for step in range(steps):
            loss = objective(self.batch(step))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config)
            optimizer.step()
            losses.append(loss.item())
        return model, losses

    @torch.no_grad()
    def judge(self, model):
        """Nats a byte on unseen text, computed through the core's own attention."""
        windows = self.held_out.unfold(0, self.context + 1, self.context)
        return CausalLM(set_attend(model, attend))((windows[:, :-1], windows[:, 1:])).item()

    def sample(self, model):
        ids = generate(model, [list(PROMPT.encode())], Sampling(max_tokens=60, temperature=0.7, seed=1))[
            0
        ].ids
        return PROMPT + bytes(ids).decode(errors="replace").replace("\n", " ")


def by_tiles(q, k, v, *, positions, cache=None, mask=None):
    """`tiled.attend` with tiles of 16, so that even a short row has several."""
    if cache is not None:
        k, v = cache.update(k, v, positions)
    return tiled.flash(q, k, v, tiled.reach_of(positions, cache), mask, size=16)


def training(lab):
    """The same training through torch's attention and tile by tile: one curve, and the same words."""
    town = Town(lab)
    (ours, mine), (theirs, want) = town.trained(by_tiles), town.trained(attend)
    apart = max(abs(a - b) for a, b in zip(mine, want, strict=True))
    lab.say(
        f"  after {len(want)} updates {want[-1]:.4f} and {mine[-1]:.4f} nats a byte; never more than "
        f"{apart:.1e} apart"
    )
    for name, model in (("torch's SDPA", theirs), ("tiled", ours)):
        lab.say(f"  {name:12} {town.sample(model)}")
    fig, ((top,), (low,)) = plots.figure(2, 1, height=5)
    top.plot(want, color=plots.COLOURS[6], linewidth=3, alpha=0.5, label="through torch's SDPA")
    top.plot(mine, color=plots.COLOURS[0], linewidth=1.2, label="tile by tile")
    top.set(ylabel="loss, nats a byte")
    plots.legend(top)
    worst = accumulate((abs(a - b) for a, b in zip(mine, want, strict=True)), max)
    low.semilogy([max(far, 1e-7) for far in worst], color=plots.COLOURS[1])
    low.set(xlabel="update", ylabel="apart, at most", ylim=(1e-7, 5e-3))
    plots.level(low, 1e-3, "the goal: never more than 0.001")
    lab.save(fig, "training.png")
    return {"apart": apart, "loss": mine[-1]}


def edge(lab):
    """One <= for a < at the edge of a tile: a loss too good to be true, because it is not."""
    town = Town(lab)
    right, curve = town.trained(by_tiles)
    with broken(in_reach=in_reach_leaking):
        wrong, leaked = town.trained(by_tiles)
    fig, ((ax,),) = plots.figure(height=3.8)
    found = {}
    for name, model, losses, colour in (("right", right, curve, plots.COLOURS[0]),
                                        ("<= at the edge", wrong, leaked, plots.COLOURS[1])):  # fmt: skip
        judged = town.judge(model)
        ax.plot(losses, color=colour, label=f"{name}: training")
        ax.plot(len(losses), judged, "D", color=colour, markersize=9, label=f"{name}: unseen text")
        lab.say(f"  {name}: training {losses[-1]:.2f}, unseen text {judged:.2f} nats a byte")
        lab.say(f"    {town.sample(model)}")
        found |= {f"{name}: training": losses[-1], f"{name}: unseen": judged}
    ax.set(xlabel="update", ylabel="loss, nats a byte", ylim=(0, math.log(256) + 0.5))
    plots.legend(ax, ncols=2)
    lab.save(fig, "edge.png")
    return found
