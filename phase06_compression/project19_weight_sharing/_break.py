"""A tie that came late, or is none; layers that are shared and not trained again; what cannot be shared."""

import torch
import torch.nn as nn

from common import plots
from common.errors import UserError
from common.recipe import adamw
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import tying
from .layer_sharing import adjacent, repeated, share
from .relaxed import relax


def right(model, config):
    """First the tie, then the optimiser."""
    return adamw(CausalLM(tying.tie(model)), config)


def late(model, config):
    """First the optimiser, then the tie: it holds a head that is gone."""
    optimizer = adamw(CausalLM(model), config)
    tying.tie(model)
    return optimizer


def memory(model, config):
    """Two Parameters that look into one memory."""
    model.head.weight.data = model.embed.weight.data
    return adamw(CausalLM(model), config)


def values(model, config):
    """Two Parameters of equal values."""
    model.head.weight.data.copy_(model.embed.weight.data)
    return adamw(CausalLM(model), config)


TIES = {"right": right, "after the optimiser": late, "one memory": memory, "equal values": values}


def ties(lab):
    """One right way to tie, and three that look like it: what is held, how far the ends part, the loss."""
    fig, ((left, middle),) = plots.figure(1, 2, width=12)
    found, held = {}, {}
    for name, way in TIES.items():
        model = lab.small()
        first = model.embed.weight.detach().clone()
        config = lab.plan.train_config(lab.run.device)
        optimizer, batch_at, losses = way(model, config), lab.town.batches(lab.plan), []
        for step in range(lab.config.steps):
            losses.append(update(model, optimizer, batch_at(step)))
            if step == 0:
                moved = (model.embed.weight - first).abs().max().item() / config.learning_rate
        in_optimizer = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        apart = (model.head.weight - model.embed.weight).norm() / model.embed.weight.norm()
        held[name] = {"in the model": tying.count(model) / 1e6, "in the optimiser": in_optimizer / 1e6}
        middle.plot(losses, label=name, linewidth=4 if name == "right" else 1.4)  # two lie upon each other
        verdict = said(lambda model=model, optimizer=optimizer: tying.check(model, optimizer))
        lab.say(f"  {name}: {in_optimizer:,} numbers in the optimiser, ends {apart:.1%} apart, first update "
                f"{moved:.2f} times the rate, loss {losses[-1]:.3f}; check: {verdict}")  # fmt: skip
        found |= {f"{name}, held": in_optimizer, f"{name}, apart": apart.item(), f"{name}, moved": moved,
                  f"{name}, loss": losses[-1]}  # fmt: skip
    plots.bars(left, held, label="{:.2f}")
    left.set(ylabel="million numbers")
    left.tick_params(axis="x", labelsize=9.5)
    middle.set(xlabel="update", ylabel="nats a token")
    plots.legend(left, loc="upper left", ncols=2)
    left.margins(y=0.25)
    plots.legend(middle)
    lab.save(fig, "ties.png")
    return found


def update(model, optimizer, batch):
    """One update at full rate; its loss."""
    loss = CausalLM(model)(batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def said(call):
    """The one line with which a call refuses, or "nothing to say"."""
    try:
        call()
    except UserError as error:
        return str(error)
    return "nothing to say"


def unlike(lab):
    """What cannot be shared is refused in one line: a tie of unlike shapes, layers of unlike width."""
    C = lab.base.config.d_model
    narrow, cut = lab.copy(), lab.copy()
    narrow.head = nn.Linear(C // 2, len(narrow.embed.weight), bias=False)
    cut.blocks[-1].ffn.w_up = nn.Linear(C, 8, bias=False)
    tries = {"tie": lambda: tying.tie(narrow), "layers": lambda: share(cut, (0,) * len(cut.blocks))}
    found = {}
    for name, call in tries.items():
        line = said(call)
        lab.say(f"  {name}: {line}")
        found[name] = line != "nothing to say"
    return found


def cold(lab):
    """Layers of a trained model are joined: what is left at once, and after a short training."""
    plan = adjacent(len(lab.base.blocks), max(1, len(lab.base.blocks) // 2))
    rank = max(1, min(16, lab.base.config.d_model // 8))
    sides = {
        "the first of two": lambda: share(lab.copy(), plan),
        "the mean of two": lambda: share(lab.copy(), plan, mean=True),
        f"the first, and rank {rank}": lambda: relax(lab.copy(), plan, rank),
    }
    fig, ((ax,),) = plots.figure(height=4.6)
    found, plain = {"plain": lab.loss(lab.base)}, lab.loss(lab.base)
    with torch.no_grad():
        found["each block twice"] = lab.loss(repeated(lab.copy(), 2))
    for name, make in sides.items():
        model = make()
        line = lab.trained(model, points=5, learning_rate=lab.config.learning_rate / 3)
        ax.plot(*zip(*line, strict=True), "o-", label=f"{name}, {tying.count(model) / 1e6:.2f}M")
        found |= {f"{name}, at once": line[0][1], f"{name}, trained": line[-1][1]}
        lab.say(f"  {name}: {line[0][1]:.3f} nats at once, {line[-1][1]:.3f} after {line[-1][0]} updates")
    lab.say(f"  as it is {plain:.3f}; every block run twice, nothing else changed: "
            f"{found['each block twice']:.3f}")  # fmt: skip
    plots.level(ax, plain, f"as it is, {tying.count(lab.base) / 1e6:.2f}M")
    ax.set(xlabel="update", ylabel="nats a token of unseen pages")
    plots.legend(ax)
    lab.save(fig, "cold.png")
    return found
