"""Measure the claims: the gap closed at equal updates and in equal time, speed, guesses kept, memory."""

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from common import hub
from common import tokenizer as tokenizers
from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench
from common.cli.paths import models
from common.generate import Sampling, generate
from common.recipe import adamw
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import _draft, _fit, _gpu
from ._answers import Answers
from ._heads import Heads
from .feature_kd import FeatureKD
from .logit_kd import LogitKD, Teacher, gap_closed
from .task_kd import AnswerKD
from .train import PRESETS

SHARE = {"unit": "of the gap", "better": "higher"}
TINY = _fit.Sizes(1, 16, 2, 1, 24)
DRAFT = 4  # guesses a round
SIDES = "alone", "distilled", "as long", "by logits"


class Trial:
    """The teacher, its text, and for each seed four students: alone, distilled, alone for as long, and one
    taught by logits."""

    def __init__(self, b, folder, preset="cpu"):
        self.preset, self.say, self.device = PRESETS[preset], b.say, b.device
        steps = b.pick(smoke=2, quick=12, full=self.preset.steps)
        self.plan = replace(self.preset.plan, steps=steps, **b.pick(
            smoke={"batch_size": 2, "context": 24}, quick={}, full={}))  # fmt: skip
        self.seeds = range(b.pick(smoke=1, quick=1, full=3))
        self.sizes = b.pick(smoke=TINY, quick=self.preset.sizes, full=self.preset.sizes)
        self.tokenizer, self.teacher = tokenizers.load(folder), hub.load(folder, device=b.device)
        tokens = replace(self.plan, steps=3 * steps).text  # who learns alone for as long reads on
        self.town = _fit.Town(self.tokenizer, tokens, b.pick(smoke=100, quick=4_000, full=30_000), b.device)
        self.rows = self.town.windows(self.plan.context)
        self.asked = _draft.prompts(self.tokenizer, b.pick(smoke=1, quick=2, full=16), 16)
        self.new = b.pick(smoke=4, quick=16, full=64)

    def student(self, seed):
        return self.sizes.student(self.teacher, seed)

    def taught(self, student):
        return FeatureKD(student, self.teacher, beta=self.preset.beta)

    def kd(self, student):
        return LogitKD(student, Teacher(self.teacher), self.preset.temperature, self.preset.alpha)

    def fit(self, objective, seed, steps=None):
        """(the trained model, its seconds)"""
        plan = replace(self.plan, seed=seed, steps=steps or self.plan.steps)
        with tempfile.TemporaryDirectory() as folder:
            model, past = _fit.fit(objective, self.town.batches(plan), plan, Path(folder) / "run",
                                   device=self.device)  # fmt: skip
        return model, past.train[-1]["seconds"]

    def judged(self, model):
        """How a model does on unseen pages; where it is no teacher, as a draft too."""
        found = _fit.beside(model, self.teacher, self.rows)
        if model is not self.teacher:
            for name, T in (("drawn", 1.0), ("greedy", 0.0)):
                found[name] = _draft.accepted(self.teacher, model, self.asked, self.new, DRAFT, T)["accepted"]
        return found

    @cached_property
    def found(self):
        """{"teacher": figures, each side: [figures of each seed, with "seconds"]}"""
        found = {"teacher": self.judged(self.teacher), **{side: [] for side in SIDES}}
        for seed in self.seeds:
            alone, short = self.fit(CausalLM(self.student(seed)), seed)
            made, long = self.fit(self.taught(self.student(seed)), seed)
            heard, slow = self.fit(self.kd(self.student(seed)), seed)
            steps = max(1, round(self.plan.steps * long / short))
            later, spent = self.fit(CausalLM(self.student(seed)), seed, steps)
            four = (alone, short), (made, long), (later, spent), (heard, slow)
            rows = dict(zip(SIDES, four, strict=True))
            for name, (model, seconds) in rows.items():
                found[name].append(self.judged(model) | {"seconds": seconds})
            found["as long"][-1]["updates"] = steps
            said = (f"{name} {found[name][-1]['loss']:.4f} ({s:.0f} s)" for name, (_, s) in rows.items())
            self.say(f"  seed {seed}: {', '.join(said)}; teacher {found['teacher']['loss']:.4f}")
        return found

    def column(self, side, key):
        return [row[key] for row in self.found[side]]

    def shares(self, control, side="distilled"):
        """The gap closed against this control, by seed."""
        losses = zip(self.column(control, "loss"), self.column(side, "loss"), strict=True)
        return [gap_closed(alone, made, self.found["teacher"]["loss"]) for alone, made in losses]


def with_interval(name, shares):
    """Values of each seed, with the interval of their mean."""
    return values(name, shares) | {"interval": _fit.interval(shares)}


def bench_gap(b, trial):
    """At equal updates, and at equal time."""
    settings = {f"{side}: {key}": trial.column(side, key) for side in SIDES
                for key in ("loss", "accuracy", "agreement", "seconds")}  # fmt: skip
    settings |= {"teacher": trial.found["teacher"]["loss"], "updates": trial.plan.steps,
                 "tokens of an update": trial.plan.tokens, "beta": trial.preset.beta,
                 "updates, as long": trial.column("as long", "updates")}
    b.claim("gap", "Taught by the base model, a student of a quarter of its weights closes at least 30 % of "
            "the gap between the same student trained alone and its teacher, at equal updates", headline=True,
            goal=(">=", 0.30), measured=with_interval("distilled", trial.shares("alone")), bound=1.0, **SHARE,
            why="(alone - distilled) / (alone - teacher) in nats a token of unseen pages; the same first "
                "weights and batches; interval by Student's t over the seeds", settings=settings)
    b.claim("clock", "The same against a student that trains alone for as many seconds, the teacher's part "
            "counted: the share closed is above 0", **SHARE, goal=(">", 0.0), bound=1.0,
            measured=with_interval("distilled", trial.shares("as long")),
            why="what it has in place of a teacher is more text, as much as it can read meanwhile")
    b.claim("logits", "Taught by the base model's logits in place of its states and relations, it closes at "
            "least 30 % too", **SHARE, goal=(">=", 0.30), bound=1.0,
            measured=with_interval("by logits", trial.shares("alone", "by logits")),
            settings={"temperature": trial.preset.temperature, "alpha": trial.preset.alpha},
            why="where only one token is possible, the teacher's shares say no more than the text; the "
                "settings of the claim above show what each student reached")
    due = max(trial.found["teacher"]["accuracy"], 1e-6)  # a teacher that knows nothing is never right
    b.claim("accuracy", "The student's likeliest next token is right at least 97 % as often as the teacher's",
            unit="of the teacher's", better="higher", goal=(">=", 0.97), bound=1.0,
            measured=with_interval("distilled", [a / due for a in trial.column("distilled", "accuracy")]),
            settings={"teacher": due, "alone": [a / due for a in trial.column("alone", "accuracy")]})


def bench_draft(b, trial):
    """The share of guesses that the teacher keeps, before and after."""
    for key, how in (("drawn", "drawn at temperature 1"), ("greedy", "of the likeliest token")):
        made, alone = (trial.column(side, key) for side in ("distilled", "alone"))
        shared, before = (trial.column(side, "overlap")[0] for side in ("distilled", "alone"))
        b.claim(f"draft-{key}", f"As project 11's draft, {DRAFT} guesses a round, {how}: more of its guesses "
                "are kept after distillation than of the same student's trained alone", better="higher",
                unit="of the guesses", goal=(">", 1.0), settings={"as long": trial.column("as long", key)},
                measured=kept(made, alone), prediction=shared / before if key == "drawn" else None,
                why="the prediction is the ratio of what their distributions share with the teacher's")


def kept(made, alone):
    """Both shares by seed and their ratio; where a student's guesses are never kept, only the share after."""
    return values("distilled", made, "alone", alone) if min(*alone, *made) > 0 else values("distilled", made)


def bench_speed(b, teacher, student):
    """Tokens a second, one text, through the same loop."""
    n, prompt = b.pick(smoke=4, quick=32, full=96), [[1, 2, 3, 4]]
    sampling = Sampling(max_tokens=n, temperature=0, ignore_eos=True)

    def writes(model):
        return lambda: len(generate(model, prompt, sampling)[0].ids)

    run = b.compare({"teacher": writes(teacher), "student": writes(student)}, check=0.0, memory=False,
                    budget=b.pick(smoke=0.5, quick=8, full=60))  # fmt: skip
    sizes = {name: _fit.weights(model) for name, model in (("teacher", teacher), ("student", student))}
    b.claim("speed", "The student writes at least 2.5 times as many tokens a second as its teacher, one text "
            "at a time", unit="tok/s", better="higher", goal=(">=", 2.5),
            measured=run.figures("student", work=n), prediction=sizes["teacher"] / sizes["student"],
            settings={"weights": sizes},
            why="the prediction is the ratio of weights: a decoded token reads each of them once")


class Update:
    """One update of a student, alone or with a teacher."""

    def __init__(self, b, trial, objective):
        plan = trial.plan
        self.objective, self.device = objective.train(), b.device
        self.config, self.batch = plan.train_config(b.device), trial.town.batches(plan)(0)
        self.optimizer, self.bf16 = adamw(objective, self.config), self.config.precision == "bf16"

    def __call__(self):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.objective(self.batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return 1.0  # what is compared is how long it takes; the losses are two different things


def bench_update(b, trial):
    """What the teacher costs: 6 Ns + 2 Nt operations a token where the student alone takes 6 Ns; its head
    is not asked for."""
    sides = {"alone": CausalLM(trial.student(0)), "distilled": trial.taught(trial.student(0))}
    sides = {name: Update(b, trial, objective) for name, objective in sides.items()}
    run = b.compare(sides, check=0.0, memory=False, budget=b.pick(smoke=0.5, quick=10, full=60))
    mine, theirs = _fit.weights(trial.student(0)), _fit.weights(trial.teacher.blocks)
    b.claim("update", "An update with the teacher takes at most 4 times as long as alone", unit="s",
            better="lower", goal=("<=", 4.0), measured=run.figures("distilled"),
            prediction=(6 * mine + 2 * theirs) / (6 * mine),
            settings={"weights": {"student": mine, "teacher": theirs}, "tokens": trial.plan.tokens},
            why="the prediction counts operations: both ways through the student, one through the blocks "
                "of the teacher")


def heads_of(b):
    """Head and loss in the sizes of this mode."""
    return Heads(*b.pick(smoke=(64, 16, 24, 300, 8), quick=(1024, 128, 256, 10_000, 128),
                         full=(2048, 128, 256, 10_000, 128)), b.device)  # fmt: skip


def bench_chunks(b):
    """Memory and time of the loss."""
    heads = heads_of(b)
    sides = {"all at once": heads.at_once, "in chunks": heads.in_chunks}
    run = b.compare(sides, check=1e-4, budget=b.pick(smoke=0.5, quick=10, full=60))
    peaks = [run.sides[name].peak_memory or 0 for name in sides]
    b.claim("memory", "Head and loss a chunk at a time hold at most a fifth of the memory of all logits",
            unit="bytes", better="lower", goal=("<=", 0.2), prediction=heads.chunk / len(heads.x),
            measured=values("in chunks", peaks[1:], "all at once", peaks[:1]), settings=heads.shape,
            why="the prediction is that of the logits alone; the gradient of the weights is held besides")
    b.claim("time", "and take at most 1.1 times as long", unit="s", better="lower", goal=("<=", 1.1),
            measured=run.figures("in chunks"), settings=heads.shape)


def bench_task(b, trial, folder):
    """Answers: teacher, student alone, student with the teacher."""
    tokenizer, teacher = tokenizers.load(folder), hub.load(folder, device=b.device)
    steps = b.pick(smoke=2, quick=8, full=300)
    plan = replace(trial.plan, steps=steps, batch_size=b.pick(smoke=2, quick=8, full=24))
    text = Answers(tokenizer, steps * plan.batch_size, b.pick(smoke=2, quick=14, full=210), b.device)
    found = {"teacher": text.judge(teacher, teacher, plan.context)}
    for name, kind in (("alone", text.alone), ("distilled", lambda m: AnswerKD(m, Teacher(teacher)))):
        with tempfile.TemporaryDirectory() as place:
            model, _ = _fit.fit(kind(trial.student(0)), text.batches(plan), plan, Path(place) / "run",
                                device=b.device)  # fmt: skip
        found[name] = text.judge(model, teacher, plan.context)
    right = {name: row["right"] for name, row in found.items()}
    b.claim("task", "Taught by models/sft on TinyTown's questions, the student answers at least as many of "
            "the held-out ones as alone, at equal updates", unit="answered rightly", better="higher",
            goal=(">=", 0.0), measured=values("distilled minus alone", [right["distilled"] - right["alone"]]),
            settings={f"{name}, {key}": value for name, row in found.items() for key, value in row.items()})


def main(b):
    base, tuned = models() / "base", models() / "sft"
    if chain.whole(base):
        trial = Trial(b, base)
        bench_gap(b, trial)
        bench_draft(b, trial)
        bench_speed(b, trial.teacher, trial.student(0))
        bench_update(b, trial)
        if chain.whole(tuned):
            bench_task(b, trial, tuned)
        large = Trial(b, base, "gpu") if b.device.type == "cuda" else None
    else:
        large = None
        b.not_run("gap", "A student closes at least 30 % of the gap to its teacher", goal=(">=", 0.3),
                  headline=True, why="no models/base yet: ./thirty run 3", **SHARE)
    bench_chunks(b)
    _gpu.bench_gpu(b, large)


def profiled(b):
    return heads_of(b).in_chunks


if __name__ == "__main__":
    bench(main, profiled)
