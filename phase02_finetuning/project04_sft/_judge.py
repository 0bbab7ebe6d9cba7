"""What is measured before and after: right answers, the form asked for, and what was forgotten meanwhile."""

import math
from collections import Counter
from itertools import islice

import torch

from common import plots
from data import corpora
from data.tinytown import TinyTown, check
from phase01_foundation.project03_pretrain import probe

from . import skill
from .sft import AnswerLoss, pad, plain_prompt

FAMILIES = 23  # of TinyTown: a stream takes them in turns
UNSEEN = 9  # a seed of pages that no base model was trained on
REPORTED = ("read", "yes_no", "count", "reverse")  # beside chance, without a bar


def questions(judged: int, split: str) -> list[dict]:
    """`judged` rows of each family, in turns."""
    return list(islice(TinyTown().instructions(split, seed=1), FAMILIES * judged))


def chance(rows: list[dict]) -> dict[str, float]:
    """What guessing would reach in REPORTED: the share of the commonest answer, one of the values in the
    text, any order of the words."""
    by_family = {name: [row for row in rows if row["family"] == name] for name in REPORTED}
    found = {}
    for name, own in by_family.items():
        if name == "read":
            odds = [1 / (1 + len(row["rivals"])) for row in own]
        elif name == "reverse":
            odds = [1 / math.factorial(len(row["answer"].split())) for row in own]
        else:
            odds = [max(Counter(row["answer"] for row in own).values(), default=0) / max(1, len(own))]
        found[name] = sum(odds) / max(1, len(odds))
    return found


@torch.no_grad()
def answer_loss(model, examples, pad_id: int) -> float:
    """Nats per counted token of the answers, over all examples together."""
    nats, counted, device = 0.0, 0, next(model.parameters()).device
    objective, training = AnswerLoss(model), model.training
    model.eval()
    for start in range(0, len(examples), 32):
        part = examples[start : start + 32]
        n = sum(sum(example.counted[1:]) for example in part)
        nats += objective(pad(part, pad_id).to(device)).item() * n
        counted += n
    model.train(training)
    return nats / max(1, counted)


def text_loss(model, tokenizer, texts, tokens: int, context: int) -> float:
    """Perplexity of running text that is no conversation: what the base model was good at."""
    end, ids = probe.end_id(tokenizer), []
    for text in texts:
        ids += [*tokenizer.encode(text), end]
        if len(ids) > tokens:
            break
    windows = torch.tensor(ids[: max(tokens, context + 2)]).unfold(0, context + 1, context)
    return probe.surprise(model, ((part[:, :-1], part[:, 1:]) for part in windows.split(16)))["perplexity"]


def forgetting(model, tokenizer, tokens: int) -> dict[str, float]:
    """Perplexity on pages of the town that were never read, and on a manual."""
    context = min(256, model.config.max_seq_len)
    manual = corpora.load("python-manual")[: 8 * tokens]
    return {"ppl_pages": text_loss(model, tokenizer, TinyTown().pages(UNSEEN), tokens, context),
            "ppl_manual": text_loss(model, tokenizer, [manual], tokens, context)}  # fmt: skip


def skills(model, tokenizer, judged: int, splits=("held-out", "rephrased")) -> dict[str, float]:
    """Every score of TinyTown's families, {"held-out: where": 0.9, ...}.

    in form: the share of replies of the form that was asked for. as text: knowledge asked without a template.
    in pages: knowledge asked as the pages ask that a base model read, under their title.
    """
    found = {}
    for split in splits:
        rows = questions(judged, split)
        answers = skill.answers(model, tokenizer, [skill.asked(row) for row in rows])
        said = [answer.text for answer in answers]
        right = {}
        for row, reply in zip(rows, said, strict=True):
            right.setdefault(row["family"], []).append(check(row, reply))
        scores = {family: sum(each) / len(each) for family, each in right.items()}
        found |= {f"{split}: {family}": value for family, value in scores.items()}
        found |= {f"{split}: {name}": value for name, value in skill.headline(scores).items()}
        formed = [skill.in_form(row, answer) for row, answer in zip(rows, answers, strict=True)]
        found[f"{split}: in form"] = sum(formed) / len(formed)
    rows = [row for row in questions(judged, "held-out") if row["family"] in skill.KNOWLEDGE]
    as_text = skill.score(model, tokenizer, rows, ask=plain_prompt)
    found["knowledge as text"] = skill.macro(as_text, skill.KNOWLEDGE)
    return found | {"knowledge in pages": probe.knows(model, tokenizer, TinyTown(), "plain", 5 * judged)}


def table(before: dict[str, float], after: dict[str, float], guessed: dict[str, float]) -> list[str]:
    """Lines that show what changed, one family a line."""
    names = [name.removeprefix("held-out: ") for name in before if name.startswith("held-out: ")]
    lines = [f"{'':14} {'before':>7} {'after':>7} {'rephrased':>10} {'guessing':>9}"]
    for name in names:
        values = [before[f"held-out: {name}"], after[f"held-out: {name}"], after[f"rephrased: {name}"]]
        shown = "{:7.0%} {:7.0%} {:10.0%}".format(*values)
        lines.append(f"{name:14} {shown} " + (f"{guessed[name]:9.0%}" if name in guessed else ""))
    return [line.rstrip() for line in lines]


def picture(before: dict[str, float], after: dict[str, float], guessed: dict[str, float]):
    """Families from best to worst: before, after, and in wordings that training never used."""
    names = [name.removeprefix("held-out: ") for name in before if name.startswith("held-out: ")]
    names = [name for name in names if name not in ("knowledge", "follows", "in form")]
    names.sort(key=lambda name: after[f"held-out: {name}"])
    fig, ((ax,),) = plots.figure(width=8.0, height=6.4)
    for label, scores, split, shift in (("base", before, "held-out", 0.27), ("tuned", after, "held-out", 0.0),
                                        ("tuned, new wordings", after, "rephrased", -0.27)):  # fmt: skip
        places = [i + shift for i in range(len(names))]
        ax.barh(places, [scores[f"{split}: {name}"] for name in names], height=0.25, label=label)
    for i, name in enumerate(names):
        if name in guessed:
            ax.plot([guessed[name]] * 2, [i - 0.42, i + 0.42], color=plots.INK, linewidth=1.5)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(0, 1.02), xlabel="answered rightly", title="Before and after; the dark line is guessing")
    ax.grid(False, axis="y")
    plots.legend(ax, loc="lower right")
    return fig
