"""See: what weights and inputs look like, what a bit is worth, which matrix minds, which kernel wins."""

import copy
from collections import defaultdict

import torch

from common import plots
from common.generate import Sampling, generate

from . import integer
from .calibration import STAGES, walk
from .rtn import QuantLinear, grid_of, quantize

KINDS = [name for stage in STAGES for name in stage]
SHORT = {name: name.rpartition(".")[2] for name in KINDS}
METHODS, FLOOR = ("rtn", "gptq"), 1e-3  # what is added below that is chance
COLOUR = dict(zip(("rtn", "gptq", "awq"), plots.COLOURS, strict=False))


def weights(lab):
    """What a matrix looks like, and where 4 bits put its weights: by one grid, and by a grid for each row."""
    block = lab.base.blocks[len(lab.base.blocks) // 2]
    w = block.ffn.w_down.weight.detach()
    fig, ((left, right),) = plots.figure(1, 2, width=10, height=3.6)
    left.hist(w.flatten().numpy(), bins=200, color=plots.COLOURS[5])
    whole = grid_of(w, 4, "tensor").scale.item()
    for k in range(-7, 8):
        left.axvline(k * whole, color=plots.COLOURS[1], linewidth=0.8)
    left.set(title="One grid for a matrix", xlabel="weight", yticks=[], xlim=(-8 * whole, 8 * whole))
    largest = w.abs().amax(1).sort().values
    right.plot(largest, color=plots.COLOURS[0], label="largest weight of each row, sorted")
    plots.level(right, w.abs().max().item(), "largest of the matrix")
    plots.level(right, w.std().item(), "standard deviation")
    right.set(title="Rows have different needs", xlabel="row", ylim=(0, None))
    lab.save(fig, "weights.png")
    used = {str(group): len(quantize(w, grid_of(w, 4, group), 4).unique()) for group in ("tensor", None)}
    zeros = {name: (quantize(w, grid_of(w, 4, group), 4) == 0).float().mean().item()
             for name, group in (("one grid", "tensor"), ("rows", None))}  # fmt: skip
    lab.say(f"  weights that become 0: {zeros['one grid']:.0%} with one grid, {zeros['rows']:.0%} with rows; "
            f"of 16 codes {used['tensor']} are used")  # fmt: skip
    return {f"zeros, {name}": share for name, share in zeros.items()}


def inputs(lab):
    """How large the inputs of each matrix are, input by input: outlier channels stand out."""
    found, number = defaultdict(list), {id(block): i for i, block in enumerate(lab.base.blocks)}

    def visit(block, names, moments):
        found[names[0]].append((moments.hessian.diagonal().sqrt(), number[id(block)]))

    walk(lab.base, lab.batches, visit)
    fig, axes = plots.figure(1, len(found), width=3 * len(found), height=3.4)
    metrics = {}
    for ax, (name, rows) in zip(axes[0], found.items(), strict=True):
        for size, _ in rows:
            ax.plot(torch.linspace(0, 1, len(size)), size.sort(descending=True).values, linewidth=1.4)
        ratio = max((size.max() / size.median()).item() for size, _ in rows)
        metrics[f"largest over middle, {SHORT[name]}"] = ratio
        ax.set(title=f"into {SHORT[name]}", xlabel="inputs, sorted", xticks=[], yscale="log")
    axes[0][0].set_ylabel("root mean square, a line a block")
    lab.save(fig, "inputs.png")
    lab.say("  largest input over the middle one: " + ", ".join(f"{k.rpartition(' ')[2]} {v:.1f}"
                                                                for k, v in metrics.items()))  # fmt: skip
    return metrics


def bits(lab):
    """Perplexity against bits, by three ways to choose the codes; a row is a group."""
    base, found = lab.perplexity(lab.base), {}
    for name in lab.config.methods:
        for n in lab.config.widths:
            found[name, n] = lab.perplexity(lab.quantised(name, n, lab.group))
            lab.say(f"  {name:4} {n} bits: perplexity {found[name, n]:.4f} ({found[name, n] - base:+.4f})")
    fig, ((ax,),) = plots.figure(width=7.5)
    for name in lab.config.methods:
        worse = [max(found[name, n] - base, FLOOR) for n in lab.config.widths]
        ax.plot(lab.config.widths, worse, marker="o", linewidth=2, color=COLOUR[name], label=name)
    ax.set(xlabel="bits of a weight", ylabel=f"added perplexity, {FLOOR} and more", yscale="log",
           xticks=lab.config.widths, title=f"What a bit is worth (the floats have {base:.3f})")  # fmt: skip
    ax.invert_xaxis()
    plots.legend(ax)
    lab.save(fig, "bits.png")
    return {f"{name}, {n} bits": value - base for (name, n), value in found.items()}


def layers(lab):
    """One matrix at a time in 2 bits: which ones the model minds most."""
    base, table, model = lab.perplexity(lab.base, 4), [], copy.deepcopy(lab.base)
    names = [name for name in KINDS if any(name == n for n, _ in model.blocks[0].named_modules())]
    for block in model.blocks:
        row = []
        for name in names:
            old = block.get_submodule(name)
            block.set_submodule(name, QuantLinear.from_linear(old, 2, lab.group, False))
            row.append(lab.perplexity(model, 4) - base)
            block.set_submodule(name, old)
        table.append(row)
    fig, ((ax,),) = plots.figure(width=7.5, height=0.45 * len(table) + 1.6)
    rows, columns = [str(i) for i in range(len(table))], [SHORT[name] for name in names]
    title = "Added perplexity, one matrix in 2 bits"
    picture = plots.heatmap(ax, table, x=columns, y=rows, title=title)
    ax.set(ylabel="block")
    fig.colorbar(picture, ax=ax)
    lab.save(fig, "layers.png")
    mean = {SHORT[name]: sum(row[i] for row in table) / len(table) for i, name in enumerate(names)}
    lab.say("  mean over blocks: " + ", ".join(f"{name} {value:+.4f}" for name, value in mean.items()))
    return mean


def kernels(lab):
    """How long each kernel takes for one row, for sixteen, for many: the winner changes."""
    torch.manual_seed(0)
    out, into = lab.config.shape
    layer = QuantLinear.from_linear(torch.nn.Linear(into, out, bias=False), 8)
    four = QuantLinear.from_linear(torch.nn.Linear(into, out, bias=False), 4, min(into, 128))
    chooser, x = integer.Chooser(error=1.0), {}
    for rows in lab.config.rows:
        for one in (layer, four):
            with torch.no_grad():
                integer.FastLinear(one, chooser)(torch.randn(rows, into))
    for (rows, _, _, n), times in chooser.times.items():
        for name, seconds in times.items():
            label = "floats" if name == "whole" else name
            x.setdefault(label, {}).setdefault(rows, 1e6 * seconds)
            if n == 8:
                x[label][rows] = 1e6 * seconds
    fig, ((ax,),) = plots.figure(width=7.5)
    for name, line in x.items():
        ax.plot(list(line), list(line.values()), marker="o", label=name)
    ax.set(xscale="log", yscale="log", xlabel="rows", ylabel="microseconds",
           title=f"A product with {out} x {into} weights")  # fmt: skip
    ax.set_xticks(lab.config.rows, [str(rows) for rows in lab.config.rows])
    plots.legend(ax)
    lab.save(fig, "kernels.png")
    for rows in lab.config.rows:
        best = min((line[rows], name) for name, line in x.items() if rows in line)
        lab.say(f"  {rows:4} rows: {best[1]}, {x['floats'][rows] / best[0]:.1f} times as fast as floats")
    return {f"floats over best, {rows} rows": x["floats"][rows] / min(line[rows] for line in x.values()
            if rows in line) for rows in lab.config.rows}  # fmt: skip


def text(lab):
    """What each of them says: the same beginning, greedily."""
    ids = lab.tokenizer.encode(lab.config.prompt)
    greedy = Sampling(max_tokens=lab.config.tokens, temperature=0.0)
    made = {"floats": lab.base}
    made |= {f"{n} bits, {name}": lab.quantised(name, n, lab.group) for n in (4, 2) for name in METHODS}
    found = {name: generate(m, [ids], greedy, tokenizer=lab.tokenizer)[0] for name, m in made.items()}
    for name, answer in found.items():
        lab.say(f"  {name}: {lab.config.prompt}{answer.text}".replace("\n", " / "))
    want = found["floats"].ids
    return {f"agree, {name}": sum(a == b for a, b in zip(answer.ids, want, strict=False)) / len(want)
            for name, answer in found.items()}  # fmt: skip
