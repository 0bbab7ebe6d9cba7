"""Break: one grid for a matrix, texts that are none, tables in few bits, outliers that set every step."""

import copy
from pydoc_data.topics import topics

import torch

from common import hub, plots
from common.errors import UserError

from . import awq, gptq, integer, llm_int8, rtn
from .calibration import windows


def bars(lab, title, found, name, label="added perplexity"):
    """A picture of {name: value}, and the values on the screen."""
    for key, value in found.items():
        lab.say(f"  {key:28} {value:+.4f}")
    fig, ((ax,),) = plots.figure(width=7.5, height=0.45 * len(found) + 1.3)
    drawn = ax.barh(list(found), list(found.values()), color=plots.COLOURS[0])
    ax.bar_label(drawn, fmt="%.4g", padding=4, fontsize=11)
    ax.set(title=title, xlabel=label)
    ax.margins(x=0.2)
    ax.invert_yaxis()
    lab.save(fig, name)
    return found


def tensor(lab):
    """4 bits with one grid for a whole matrix: its largest weight sets the step for all."""
    base, found = lab.perplexity(lab.base), {}
    width = lab.base.config.d_model
    for name, group in (("one grid a matrix", "tensor"), ("a grid a row", None),
                        (f"groups of {width // 4}", width // 4), (f"groups of {width // 8}", width // 8)):
        if lab.base.config.d_ff % (group if isinstance(group, int) else 1) == 0:
            found[name] = lab.perplexity(rtn.apply(copy.deepcopy(lab.base), 4, group)) - base
    return bars(lab, "4 bits, round to nearest", found, "tensor.png")


def calibration(lab):
    """GPTQ in 3 bits with texts that are not the model's: what it is told matters."""
    base, length = lab.perplexity(lab.base), lab.batches[0].size(1)
    draw, n = torch.Generator().manual_seed(0), len(lab.batches)
    V = lab.base.config.vocab_size
    manual = lab.tokenizer.encode(" ".join(topics.values())[: 8 * n * length])
    sets = {
        "the town's texts": lab.batches,
        "one of them": lab.batches[:1],
        "a manual of Python": windows(manual, length, n),
        "tokens drawn at random": [torch.randint(V, (1, length), generator=draw) for _ in range(n)],
        "one token, over and over": [torch.full((1, length), V // 2)] * n,
    }  # fmt: skip
    nearest = rtn.apply(copy.deepcopy(lab.base), 3, lab.group)
    found = {"none: round to nearest": lab.perplexity(nearest) - base}
    for name, batches in sets.items():
        made = gptq.apply(copy.deepcopy(lab.base), batches, 3, lab.group)
        found[name] = lab.perplexity(made) - base
    return bars(lab, "GPTQ in 3 bits, calibrated on …", found, "calibration.png")


def tables(lab):
    """Embedding and head in few bits, the blocks in floats: why they mostly stay in 8."""
    base, found = lab.perplexity(lab.base), {}
    for n in (8, 4, 3, 2):
        model = rtn.apply_to_tables(copy.deepcopy(lab.base), n, lab.group)
        found[f"tables in {n} bits"] = lab.perplexity(model) - base
    found["the blocks in 4 bits"] = lab.perplexity(rtn.apply(copy.deepcopy(lab.base), 4, lab.group)) - base
    return bars(lab, "Embedding and head rounded to nearest", found, "tables.png")


def loud(model, times, channels=4):
    """A copy in which some inputs of each block are `times` as large and their columns as much smaller: it
    computes what it did, and has the outliers of a large model."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for block in model.blocks:
            for maker, readers in ((block.norm_attn, (block.attn.wq, block.attn.wk, block.attn.wv)),
                                   (block.norm_ffn, (block.ffn.w_gate, block.ffn.w_up))):  # fmt: skip
                s = torch.ones(model.config.d_model)
                s[::model.config.d_model // channels] = 1 / times
                awq.fold(maker, readers, s)
    return model


def outliers(lab):
    """Inputs in 8 bits where a few are far too large: by rows, and with the outliers in floats."""
    sizes, found = (1, 20, 60), {}
    chooser = integer.Chooser(("int_mm",), error=10.0)
    ways = {"whole numbers alone": lambda m: integer.plug(m, chooser), "LLM.int8()": llm_int8.plug}
    for times in sizes:
        model = loud(lab.base, times)
        base = lab.perplexity(model)
        for name, plug in ways.items():
            made = plug(rtn.apply(copy.deepcopy(model), 8))
            found[f"{name}, x{times}"] = lab.perplexity(made) - base
            if plug is llm_int8.plug:
                layers = [m for m in made.modules() if isinstance(m, llm_int8.Int8Linear)]
                share = sum((m.seen > 0).float().mean().item() for m in layers) / len(layers)
                lab.say(f"  x{times}: {share:.1%} of the inputs were outliers at least once")
    found = dict(sorted(found.items(), key=lambda item: item[0].split(",")[0]))
    return bars(lab, "8-bit inputs; four of each norm's outputs are larger", found, "outliers.png")


def damaged(lab):
    """What is refused, and how: a line each."""
    said = {}
    model, folder = copy.deepcopy(lab.base), lab.run.folder / "in 8 bits"
    with torch.no_grad():
        model.blocks[0].attn.wq.weight[0, 0] = float("nan")
    coded = hub.mark(rtn.apply(copy.deepcopy(lab.base), 8), "project14_ptq", bits=8)
    hub.save(coded, folder)
    attempts = {
        "5 bits": lambda: rtn.apply(copy.deepcopy(lab.base), 5),
        "groups of 7": lambda: rtn.apply(copy.deepcopy(lab.base), 4, 7),
        "no text": lambda: gptq.apply(copy.deepcopy(lab.base), [], 4),
        "a weight that is NaN": lambda: rtn.apply(model, 4),
        "a folder of codes as floats": lambda: hub.load(folder),
        "codes rounded again": lambda: rtn.apply(coded, 4),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except UserError as error:
            said[name] = str(error)
            lab.say(f"  {name}: {error}")
    return {"refused": len(said), "tried": len(attempts)}
