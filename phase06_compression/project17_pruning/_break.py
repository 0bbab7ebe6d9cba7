"""Break: far too much at once, no training after it, every layer alike, the best heads, the wrong texts."""

import copy

import torch

from common import hub, plots
from common.errors import UserError

from . import _attempts, _lab, _tune, magnitude, structured, wanda


def bars(lab, title, found, name, label="times the perplexity of the whole model"):
    """A picture of {name: value}, and the values on the screen."""
    for key, value in found.items():
        lab.say(f"  {key:36} {value:.4g}")
    fig, ((ax,),) = plots.figure(width=8.5, height=0.45 * len(found) + 1.3)
    drawn = ax.barh(list(found), list(found.values()), color=plots.COLOURS[0])
    ax.bar_label(drawn, fmt="%.3g", padding=4, fontsize=11)
    ax.set(title=title, xlabel=label, xscale="log")
    ax.set_xticks([])
    ax.xaxis.minorticks_off()
    ax.set_xlim(0.8 * min(found.values()), 3 * max(found.values()))
    ax.invert_yaxis()
    lab.save(fig, name)
    return found


def oneshot(lab):
    """80 % at once: no method survives that without training; half of it nearly all do."""
    base, found = lab.perplexity(lab.base), {}
    for name in ("magnitude", "wanda", "sparsegpt"):
        for share in (0.5, 0.8):
            found[f"{name}, {share:.0%}"] = lab.perplexity(lab.pruned(name, share)) / base
    return bars(lab, "At once, no training afterwards", found, "oneshot.png")


def recovery(lab):
    """Heads and neurons, 50 %: without training afterwards, and after a few updates more and more."""
    base, found = lab.perplexity(lab.base), {}
    for fitted in (False, True):
        groups, neurons = structured.sizes(lab.base.config, 0.5)
        model = structured.apply(copy.deepcopy(lab.base), lab.batches, groups, neurons, fitted=fitted)
        name = "fitted anew" if fitted else "as they were"
        found[f"no training, weights {name}"] = lab.perplexity(model) / base
    for part in (4, 1):
        plan = lab.plan(max(1, lab.config.steps // part))
        made = copy.deepcopy(model)
        _tune.recover(made, lab.ids(plan), plan, lab.fresh(f"after {plan.steps}"))
        found[f"{plan.steps * plan.tokens:,} tokens of training"] = lab.perplexity(made) / base
    return bars(lab, "Half of all heads and neurons gone", found, "recovery.png")


def uniform(lab):
    """The same share from every layer, or where the smallest weights are; and all of it from one layer."""
    base, found = lab.perplexity(lab.base), {}
    for name in ("magnitude", "global"):
        found[f"60 %, {'every matrix alike' if name == 'magnitude' else 'the smallest of all'}"] = (
            lab.perplexity(lab.pruned(name, 0.6)) / base)  # fmt: skip
    for i in range(len(lab.base.blocks)):
        model = copy.deepcopy(lab.base)
        weights = {name: matrix.weight.detach() for name, matrix in magnitude.matrices(model).items()
                   if name.startswith(f"blocks.{i}.")}  # fmt: skip
        magnitude.settle(magnitude.hold(model, magnitude.by_layer(weights, 0.9)))
        found[f"90 % of layer {i} alone"] = lab.perplexity(model) / base
    return bars(lab, "Magnitude, no training", found, "uniform.png")


def specialised(lab):
    """A quarter of the heads closed: those that the loss minds least, any, and those that it minds most."""
    table, base = structured.head_importance(lab.base, lab.batches), lab.perplexity(lab.base)
    order, n = table.flatten().argsort(), table.numel() // 4
    draw = torch.randperm(table.numel(), generator=torch.Generator().manual_seed(0))
    found = {}
    for name, closed in (("the least important", order[:n]), ("drawn at random", draw[:n]),
                         ("the most important", order[-n:])):
        model, gates = copy.deepcopy(lab.base), torch.ones(table.numel())
        gates[closed] = 0
        for block, gate in zip(model.blocks, gates.view_as(table), strict=True):
            block.attn.attend = structured.gated(block.attn.attend, gate)
        found[name] = lab.perplexity(model) / base
    return bars(lab, f"{n} of {table.numel()} heads closed", found, "specialised.png")


def calibration(lab):
    """Wanda told about texts that are not the model's: what is loud there is not loud here."""
    base, V = lab.perplexity(lab.base), lab.base.config.vocab_size
    draw, shape = torch.Generator().manual_seed(0), lab.batches[0].shape
    sets = {"the town's texts": lab.batches, "one of them": lab.batches[:1],
            "tokens drawn at random": [torch.randint(V, shape, generator=draw) for _ in lab.batches],
            "one token, over and over": [torch.full(shape, V // 2)] * len(lab.batches)}  # fmt: skip
    found = {"none: magnitude": lab.perplexity(lab.pruned("magnitude", 0.5)) / base}
    for name, batches in sets.items():
        found[name] = lab.perplexity(wanda.apply(copy.deepcopy(lab.base), batches, 0.5)) / base
    return bars(lab, "Wanda, 50 %, calibrated on …", found, "calibration.png")


def units(lab):
    """The same model in other units, each input larger or smaller and its weights the other way round."""
    base, found = lab.perplexity(lab.base), {}
    for spread in (0.0, 0.5, 1.0):
        model = _attempts.in_other_units(lab.base, spread)
        for name in ("magnitude", "wanda"):
            made = _lab.pruned(model, lab.batches, name, 0.5)
            found[f"{name}, sizes differ by e^{spread}"] = lab.perplexity(made) / base
    found = dict(sorted(found.items(), key=lambda item: item[0].split(",")[0]))
    return bars(lab, "50 %: the same function, written in other units", found, "units.png")


def damaged(lab):
    """What is refused, and how: a line each."""
    said, batches = {}, lab.batches
    folder, file = lab.run.folder / "pruned", lab.run.folder / "masks.safetensors"
    other = lab.pruned("magnitude", 0.5)
    _lab.save(other, folder)
    _lab.write_masks(_tune.zeros_of(other), file, "of another model")
    whole = len(lab.base.blocks)
    attempts = {
        "0 %": lambda: wanda.apply(lab.base, batches, 0.0),
        "100 %": lambda: wanda.apply(lab.base, batches, 1.0),
        "no text": lambda: wanda.apply(lab.base, [], 0.5),
        "4 of 4": lambda: wanda.apply(lab.base, batches, 0.5, (4, 4)),
        "no heads": lambda: structured.apply(copy.deepcopy(lab.base), batches, 0, 16),
        "more layers than there are": lambda: structured.apply(lab.base, batches, 1, 16, whole + 1),
        "masks of another model": lambda: _lab.read_masks(file, lab.base),
        "a folder of bits as floats": lambda: hub.load(folder),
    }  # fmt: skip
    for name, attempt in attempts.items():
        try:
            attempt()
        except UserError as error:
            said[name] = str(error)
            lab.say(f"  {name}: {error}")
    return {"refused": len(said), "tried": len(attempts)}
