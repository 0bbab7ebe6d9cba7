"""Distil a small model from a large one, beside the same small model that learns the same text alone.

Both students begin with the same weights and see the same batches, as many times. What the teacher brought is
the share of the gap between student and teacher that is closed.
"""

import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Literal

from common import hub, plots
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.paths import models
from common.cli.script import script
from common.device import synchronize
from common.errors import demand
from common.generate import Sampling, generate
from phase01_foundation.project03_pretrain import probe
from phase01_foundation.project03_pretrain.town import Plan, demand_context

from . import _draft, _fit
from ._answers import Answers
from .feature_kd import MINILM, MINILM_V2, FeatureKD
from .logit_kd import LogitKD, Teacher, check_pair, check_words, gap_closed
from .multi_teacher import Teachers
from .on_policy import LOSSES, OnPolicy
from .task_kd import AnswerKD


@dataclass(frozen=True)
class Config:
    model: str = ""
    """The teacher, a folder or name; empty: models/base (task: models/sft), or a tiny one made now."""
    others: str = ""
    """More teachers, folders with commas between; they must have the same tokenizer."""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    """How several teachers become one: what any of them holds for possible, or what all do."""
    weights: Literal["alike", "confidence"] = "alike"
    """Whom of several teachers to believe: all alike, or who is surer."""
    student: str = ""
    """A folder to go on from; empty: a new model of the sizes below."""
    how: Literal["feature", "logit", "policy", "task", "said"] = "feature"
    """feature: states and relations; logit: the distribution of every token; policy: logit for half of the
    updates, then texts of the student's own; task: logits of answers; said: the teacher's own answers."""
    temperature: float = 1.0
    """Of both models where they are compared."""
    alpha: float = 0.9
    """The teacher's share of the loss, 0 to 1."""
    beta: float = 1.0
    """feature: the weight of states and of each relation, beside the surprise at the true tokens."""
    relations: Literal["minilm", "minilm2"] = "minilm"
    """feature: of queries and keys, and of values; or of queries, keys and values each with itself."""
    divergence: Literal["forward", "reverse", "jsd"] = "reverse"
    """policy: which way to measure the distance on the student's own texts."""
    n_layer: int = 2
    """Blocks of a new student."""
    d_model: int = 128
    """Its numbers a token."""
    n_head: int = 4
    """Its query heads in a block."""
    n_kv_head: int = 2
    """Its key and value heads in a block."""
    d_ff: int = 320
    """Its numbers inside a feed-forward."""
    steps: int = 400
    """Updates, of the student alone as well."""
    learning_rate: float = 6e-3
    """Highest size of an update; it warms up over a twentieth of the run, and falls to a twentieth."""
    batch_size: int = 8
    """Rows in an update; in task, conversations."""
    context: int = 128
    """Tokens of a row."""
    chunk: int = 512
    """Places whose logits are in memory at a time."""
    clock: bool = False
    """Train a third student: alone, for as many seconds as the distilled one took."""
    judged: int = 20_000
    """Tokens of unseen pages to judge by; in task, a hundredth as many questions."""
    drafts: int = 8
    """Texts that are written with the students as project 11's drafts; 0: none."""
    save: bool = False
    """Save the student as models/student."""
    seed: int = 1337
    """Of the first weights and of the order of the text."""

    def __post_init__(self):
        demand(self.drafts >= 0, "drafts must be at least 0")
        demand(self.chunk >= 1, "chunk must be at least 1")
        demand(self.temperature > 0, f"temperature is {self.temperature}: it must be above 0")
        demand(0 <= self.alpha <= 1, f"alpha is {self.alpha}: it is a share, from 0 to 1")
        demand(not self.others or self.how not in ("feature", "said"), "several teachers become one by their "
               "logits: add --how logit, or leave out --others")  # fmt: skip
        demand(self.judged > self.context, "judged must be more tokens than one context holds")
        self.plan  # noqa: B018 - says now what would be wrong later

    @property
    def plan(self):
        return Plan(self.steps, self.learning_rate, self.batch_size, self.context, self.seed)

    @property
    def sizes(self):
        return _fit.Sizes(self.n_layer, self.d_model, self.n_head, self.n_kv_head, self.d_ff)

    @property
    def link(self):
        return "sft" if self.how in ("task", "said") else "base"


GLANCE = 32  # windows of unseen text that are looked at on the way
TINY = {"n_layer": 1, "d_model": 16, "n_head": 2, "n_kv_head": 1, "d_ff": 24}
PRESETS = {
    "smoke": Config(**TINY, steps=4, batch_size=2, context=24, judged=200, drafts=1),
    "cpu": Config(),
    "gpu": Config(n_layer=4, d_model=384, n_head=6, n_kv_head=6, d_ff=1024, steps=8000, batch_size=64,
                  context=512, learning_rate=2e-3, judged=200_000, drafts=32, chunk=4096),
}  # fmt: skip


class Class:
    """Teacher, text and students of a run."""

    def __init__(self, config, run):
        self.config, self.run = config, run
        self.folder = chain.find(config.link, config.model, say=run.say)
        self.tokenizer = tokenizers.load(self.folder)
        named = [self.folder, *(hub.find(name) for name in config.others.split(",") if name)]
        for folder in named[1:]:
            check_words(self.tokenizer, tokenizers.load(folder))
        self.models = [hub.load(folder, device=run.device) for folder in named]
        self.teacher = self.models[0]
        demand_context(self.teacher, config.context)
        if config.link == "sft":
            rows = min(24_000, config.steps * config.batch_size)
            self.text = Answers(self.tokenizer, rows, max(2, config.judged // 100), run.device)
        else:
            self.text = _fit.Town(self.tokenizer, config.plan.text, config.judged, run.device)

    def student(self):
        """A new student, or a copy of the one named. UserError if the teacher cannot teach it."""
        if not self.config.student:
            model = self.config.sizes.student(self.teacher, self.config.seed)
        else:
            folder = hub.find(self.config.student)
            check_words(tokenizers.load(folder), self.tokenizer)
            model = hub.load(folder, device=self.run.device)
        check_pair(model, self.teacher)
        return model

    def ask(self):
        """The teacher, or all of them as one."""
        some = len(self.models) > 1
        return Teachers(self.models, self.config.mean, self.config.weights) if some else Teacher(self.teacher)

    def objective(self, student):
        """What the distilled student learns by."""
        c = self.config
        if c.how == "feature":
            pairs = {"minilm": MINILM, "minilm2": MINILM_V2}[c.relations]
            return FeatureKD(student, self.teacher, pairs, beta=c.beta)
        if c.how == "said":
            return self.text.alone(student)
        kind = AnswerKD if c.how == "task" else LogitKD
        return kind(student, self.ask(), c.temperature, c.alpha, c.chunk)

    def fit(self, name, objective, text, plan, batch_at=None):
        """(the trained student, its history)"""
        self.run.say(f"{name}: {plan.steps} updates")
        folder = self.run.folder / name.replace(" ", "_")
        return _fit.fit(objective, batch_at or text.batches(plan), plan, folder, device=self.run.device,
                        resume=self.run.resumed, say=self.run.say, every=max(1, plan.steps // 8),
                        evaluate=lambda: {"val_loss": text.loss(objective.model, plan.context, GLANCE)},
                        )  # fmt: skip

    def distilled(self):
        """The student after it has learned from the teacher; histories by name."""
        c, plan, text = self.config, self.config.plan, self.text
        if c.how == "said":
            text = text.taught(self.teacher)
            self.run.say(f"the teacher answers: {len(text.learn):,} of {len(self.text.learn):,} rows rightly")
        if c.how != "policy":
            model, past = self.fit("distilled", self.objective(self.student()), text, plan)
            return model, {"distilled": past}
        half = replace(plan, steps=max(1, plan.steps // 2))
        model, past = self.fit("distilled", self.objective(self.student()), text, half)
        own = replace(half, learning_rate=plan.learning_rate / 10)
        start = max(1, c.context // 4)
        objective = OnPolicy(model, self.ask(), c.context - start, LOSSES[c.divergence], chunk=c.chunk)
        model, then = self.fit("on its own texts", objective, text, own, text.prompts(own, start))
        return model, {"distilled": past, "on its own texts": then}


def speed(model, device, new):
    """Tokens a second that a model writes, one text, the better of two tries."""
    found = []
    for _ in range(2):
        synchronize(device)
        start = time.perf_counter()
        generate(model, [[1, 2, 3, 4]], Sampling(max_tokens=new, temperature=0, ignore_eos=True))
        synchronize(device)
        found.append(new / (time.perf_counter() - start))
    return max(found)


def measured(lesson, sides):
    """{side: figures} of every model: how well, how near to the teacher, how large, how fast, as a draft."""
    config, device, found = lesson.config, lesson.run.device, {}
    new = min(48, config.context // 2)
    asked = _draft.prompts(lesson.tokenizer, config.drafts, min(16, config.context // 2))
    for name, model in sides.items():
        row = lesson.text.judge(model, lesson.teacher, config.context)
        row |= {"weights": _fit.weights(model), "tokens_per_s": speed(model, device, new)}
        if asked and model is not lesson.teacher:
            row["accepted"] = _draft.accepted(lesson.teacher, model, asked, new)["accepted"]
        found[name] = row
    return found


def report(found, seconds, config, run):
    """The table, and the gap, written out."""
    for name, row in found.items():
        cells = (f"{key} {value:,.0f}" if value > 100 else f"{key} {value:.3f}" for key, value in row.items())
        run.say(f"{name:24}" + "   ".join(cells))
    loss = {name: row["loss"] for name, row in found.items()}
    for name in ("alone", "alone, as long"):
        if name in loss:
            share = gap_closed(loss[name], loss["distilled"], loss["teacher"])
            above, below = loss[name] - loss["distilled"], loss[name] - loss["teacher"]
            run.say(f"gap closed = ({name} - distilled) / ({name} - teacher) = "
                    f"{above:+.4f} / {below:+.4f} = {share:.1%}")  # fmt: skip
    run.say(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
    return gap_closed(loss["alone"], loss["distilled"], loss["teacher"])


def draw(histories, level, title):
    """The loss on unseen text over the updates, and where the teacher stands."""
    fig, ((ax,),) = plots.figure()
    start = 0
    for name, past in histories.items():
        steps, values = past.series("val_loss")
        start = 0 if name in ("alone", "distilled") else start  # what goes on from there is drawn from there
        ax.plot([start + step for step in steps], values, "o-", markersize=4, label=name)
        start += steps[-1]
    plots.level(ax, level, "teacher")
    ax.set(xlabel="update", ylabel="unseen text, nats a token", title=title)
    plots.legend(ax)
    return fig


def save(model, lesson, metrics):
    """The student, into the run's folder and if asked as models/student."""
    config, run = lesson.config, lesson.run
    card = {"made_by": "project18_distillation", "command": " ".join(sys.argv), "config": asdict(config),
            "teacher": str(lesson.folder), "metrics": metrics}  # fmt: skip
    for folder in [run.folder / "model", *([models() / "student"] if config.save else [])]:
        hub.save(model, folder, tokenizer=lesson.tokenizer, card=card)
        run.say(f"saved: {folder}")


def main(config, run):
    lesson = Class(config, run)
    teacher, plan, text = lesson.teacher, config.plan, lesson.text
    alone, past = lesson.fit("alone", text.alone(lesson.student()), text, plan)
    made, curves = lesson.distilled()
    seconds = {name: h.train[-1]["seconds"] for name, h in {"alone": past, **curves}.items()}
    sides = {"teacher": teacher, "alone": alone}
    if config.clock:
        spent = sum(value for name, value in seconds.items() if name != "alone")
        longer = replace(plan, steps=max(1, round(plan.steps * spent / seconds["alone"])))
        sides["alone, as long"], _ = lesson.fit("alone as long", text.alone(lesson.student()), text, longer)
    found = measured(lesson, sides | {"distilled": made})
    metrics = {f"{name}: {key}": value for name, row in found.items() for key, value in row.items()}
    metrics["gap closed"] = report(found, seconds, config, run)
    for name, model in [("teacher", teacher), ("alone", alone), ("distilled", made)]:
        if config.link == "base":
            words = probe.write(model, lesson.tokenizer, max_tokens=min(40, config.context // 2), seed=1)
            run.say(f"{name} writes: {' '.join(words.split())}")
    title = f"{config.how}: {metrics['gap closed']:.0%} of the gap closed"
    picture = draw({"alone": past, **curves}, found["teacher"]["loss"], title)
    run.say(f"curves: {plots.save(picture, run.folder / 'distillation.png')}")
    save(made, lesson, metrics)
    run.finish(metrics, corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
