"""What changed, and how much data it takes."""

import json

from common import hub, plots
from common import tokenizer as tokenizers
from common.cli import chain
from common.errors import UserError
from data.synthetic import split_of

from . import _judge, rows, skill
from ._lab import Lab


def before_after(lab: Lab) -> dict:
    """Every family of TinyTown: the base, the tuned model, and the tuned model in new wordings."""
    folder = chain.find("sft", lab.config.tuned, say=lab.run.say)
    model, tokenizer = hub.load(folder, device=lab.run.device).eval(), tokenizers.load(folder)
    noted = json.loads((folder / "card.json").read_text("utf-8")).get("metrics", {})
    if "base: held-out: where" in noted:  # measured when it was made
        before = {name[6:]: value for name, value in noted.items() if name.startswith("base: ")}
        after = noted
    else:
        before = _judge.skills(lab.base, lab.tokenizer, lab.config.judged, splits=("held-out",))
        after = _judge.skills(model, tokenizer, lab.config.judged)
    guessed = _judge.chance(_judge.questions(max(20, lab.config.judged), "held-out"))
    for line in _judge.table(before, after, guessed):
        lab.run.say(f"  {line}")
    lab.save(_judge.picture(before, after, guessed), "before_after.png")
    some = lab.held[:: max(1, len(lab.held) // 5)][:5]
    both = [skill.replies(*who, [skill.asked(row) for row in some])
            for who in ((lab.base, lab.tokenizer), (model, tokenizer))]  # fmt: skip
    for row, *replies in zip(some, *both, strict=True):
        lines = [row["messages"][-2]["content"], *(reply.replace("\n", " ⏎ ")[:110] for reply in replies)]
        lab.run.say("\n  > {}\n    base:  {}\n    tuned: {}".format(*lines))
    return {f"tuned, {name}": after[f"held-out: {name}"] for name in ("knowledge", "follows")}


def real(lab: Lab) -> tuple[list[dict], list[dict]] | None:
    """(rows to learn, rows to judge by) of the published instructions; None where they are not here."""
    try:
        found = rows.read("instructions", say=lab.run.say).rows
    except UserError as why:
        lab.run.say(f"  the published instructions are not here ({why}): only TinyTown's are learned")
        return None
    parts = [split_of(json.dumps(row["messages"]), {"valid": 0.15, "train": 0.85}) for row in found]
    return tuple([row for row, part in zip(found, parts, strict=True) if part == name]
                 for name in ("train", "valid"))  # fmt: skip


def curves(lab: Lab) -> dict:
    """How the loss of unseen answers falls with the number of rows: made-up rows and published ones."""
    fig, ((ax,),) = plots.figure()
    published, found = real(lab), {}
    sets = {"TinyTown (synthetic)": (lab.rows, lab.held), **({"instructions (real)": published}
                                                             if published else {})}  # fmt: skip
    for name, (learned, judged) in sets.items():
        valid, sizes = lab.encoded(judged)[:150], [n for n in lab.config.sizes if n <= len(learned)]
        losses = [_judge.answer_loss(lab.base, valid, lab.tokenizer.pad_id)]
        for n in sizes:
            repeats = max(1, min(8, sizes[-1] // n))  # about equally many updates, for as long as that helps
            model, _ = lab.tuned(lab.encoded(learned[:n]), epochs=lab.config.epochs * repeats)
            losses.append(_judge.answer_loss(model, valid, lab.tokenizer.pad_id))
        ax.plot([sizes[0] / 2, *sizes], losses, marker="o", label=name)
        found |= {f"{name}, {n} rows": loss for n, loss in zip((0, *sizes), losses, strict=True)}
        shown = ", ".join(f"{n}: {loss:.2f}" for n, loss in zip((0, *sizes), losses, strict=True))
        lab.run.say(f"  {name:22} {shown}")
    ax.set(title="Unseen answers, by the rows that were learned", xlabel="rows; the leftmost point: none")
    ax.set(ylabel="nats a token", xscale="log")
    plots.legend(ax)
    lab.save(fig, "curves.png")
    return found
