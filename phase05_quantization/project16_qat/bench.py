"""Measure the claims: how much of PTQ's damage is recovered, the tie at 8 bits, exact export, a step."""

import copy
import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from common import hub
from common import tokenizer as tokenizers
from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench
from common.cli.paths import models
from common.device import dtype_for
from common.model import GPT, ModelConfig
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.town import Town

from . import _tune, qat
from .train import PRESETS

GOALS = {4: 0.6, 3: 0.8, 2: 0.8}  # of the damage at so many bits
PASSES = 16  # over the rounded weights in an update: about seven forwards and nine back, of 4 bytes
SMALL = {"n_layer": 6, "d_model": 256, "n_head": 8, "n_kv_head": 4, "d_ff": 640, "vocab_size": 10_000}
TINY = {"n_layer": 1, "d_model": 32, "n_head": 4, "n_kv_head": 2, "d_ff": 48, "vocab_size": 260}
LARGE = {"n_layer": 12, "d_model": 768, "n_head": 12, "n_kv_head": 12, "d_ff": 2048, "vocab_size": 50_304}
SHARE = {"unit": "of the damage", "better": "higher"}
NATS = {"unit": "nats a token", "better": "lower"}


class Trial:
    """The base model, its text, and trainings of copies: for each seed a control, and one for each bits."""

    def __init__(self, b, folder):
        preset = PRESETS["smoke"] if b.mode == "smoke" else PRESETS["cpu"]
        self.plan = replace(preset.plan, steps=b.pick(smoke=2, quick=15, full=preset.steps))
        self.seeds, self.say = range(b.pick(smoke=1, quick=1, full=3)), b.say
        self.bits = b.pick(smoke=(8, 4, 3, 2), quick=(8, 4, 2), full=(8, 4, 3, 2))
        self.base = hub.load(folder, device=b.device)
        judged = b.pick(smoke=200, quick=4_000, full=20_000)
        self.town = Town(tokenizers.load(folder), self.plan.text, judged, b.device)

    def loss(self, model):
        return self.town.loss(model, self.plan.context)

    def least(self, model, bits):
        """The loss of the model rounded to nearest, by the grid that loses less."""
        return min(map(self.loss, _tune.rounded(model, bits).values()))

    def trained(self, seed, bits=None):
        """A copy of the base after its training: rounded on the way, or the control."""
        model = copy.deepcopy(self.base)
        if bits:
            qat.apply(model, qat.QATConfig(bits))
        with tempfile.TemporaryDirectory() as folder:
            self.town.fit(CausalLM(model), replace(self.plan, seed=seed), Path(folder) / "run")
        return model

    @cached_property
    def losses(self):
        """{"float" or ("ptq", bits): loss} of what is not trained; {(name, bits): losses by seed}."""
        found = {"float": self.loss(self.base)}
        found |= {("ptq", bits): self.least(self.base, bits) for bits in self.bits}
        found["gptq", 4] = self.loss(_tune.by_gptq(self.base, self.town, self.plan, 4))
        for seed in self.seeds:
            control = self.trained(seed)
            row = {("control", 32): self.loss(control)}
            for bits in self.bits:
                row["control, rounded", bits] = self.least(control, bits)
                row["qat", bits] = self.loss(qat.export(qat.freeze(self.trained(seed, bits))))
            for key, loss in row.items():
                found.setdefault(key, []).append(loss)
            said = ", ".join(f"{name} {n} {loss:.4f}" for (name, n), loss in row.items())
            self.say(f"  seed {seed}: {said}")
        return found


def bench_recovery(b, trial):
    """1 - (QAT - control) / (PTQ - float), by seed; beside it the same where the control is rounded."""
    found = trial.losses
    control, plain = found["control", 32], found["float"]
    for bits in (n for n in trial.bits if n in GOALS):
        ptq, ours = found["ptq", bits], found["qat", bits]
        shares = [_tune.recovery(ptq, plain, q, c) for q, c in zip(ours, control, strict=True)]
        triples = zip(found["control, rounded", bits], ours, control, strict=True)
        later = [_tune.recovery(r, c, q, c) for r, q, c in triples]
        b.claim(f"recovery-{bits}", f"At {bits} bits training with the rounding in place recovers at least "
                f"{GOALS[bits]:.0%} of what rounding to nearest costs", headline=bits == 4, **SHARE,
                goal=(">=", GOALS[bits]), measured=values("QAT", shares), bound=1.0,
                why="1 - (QAT - control) / (rounded - float) in nats a token of unseen pages; rounded by the "
                    "better of two grids; the control was trained in float on the same batches",
                settings={"float": plain, "rounded": ptq, "QAT": ours, "control": control,
                          "recovery of what rounding the control costs": later,
                          "updates": trial.plan.steps, "tokens of an update": trial.plan.tokens})
    pairs = zip(found["qat", 4], control, strict=True)
    shares = [_tune.recovery(found["gptq", 4], plain, q, c) for q, c in pairs]
    b.claim("gptq-4", "At 4 bits it recovers at least 60 % of what GPTQ's better rounding costs", **SHARE,
            goal=(">=", 0.6), measured=values("QAT", shares), bound=1.0,
            settings={"GPTQ": found["gptq", 4], "float": plain, "rounded to nearest": found["ptq", 4]},
            why="GPTQ pays most rounding errors forward, so that little is left to recover")


def bench_tie(b, trial):
    """At 8 bits there is nothing to recover."""
    found = trial.losses
    pairs = zip(found["qat", 8], found["control, rounded", 8], strict=True)
    apart = [abs(ours - theirs) for ours, theirs in pairs]
    b.claim("tie-8", "At 8 bits the two tie: trained with the rounding, or rounded after as long a training, "
            "the losses are at most 0.01 nats apart", **NATS, goal=("<=", 0.01), prediction=0.0,
            measured=values("apart", apart),
            settings={"QAT": found["qat", 8], "control, rounded": found["control, rounded", 8],
                      "control": found["control", 32]},
            why="a step of 8 bits is a hundredth of the spread of the weights: rounding costs almost nothing")


@torch.no_grad()
def bench_exact(b, base):
    """Logits of the model that was trained and of the one that was exported, in every setting."""
    tokens = torch.randint(base.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
    tokens, differ = tokens.to(b.device), {}
    for bits in (2, 3, 4, 8):
        for inputs in ("float", "dynamic", "static"):
            for group in (None, 16):
                model = qat.apply(copy.deepcopy(base), qat.QATConfig(bits, group, inputs=inputs))
                qat.calibrate(model, [tokens])
                want = qat.freeze(model.eval())(tokens)
                got = qat.export(model)(tokens)
                differ[f"{bits} bits, {inputs} inputs, {group or 'no'} group"] = int((got != want).sum())
    b.claim("exact", "The exported model of codes gives the logits of the one that was trained, bit for bit: "
            "of all logits none differs", unit="logits", better="lower", goal=("==", 0), prediction=0.0,
            measured=values("differ", [float(sum(differ.values()))]), settings={"differ": differ})


class Update:
    """One update of the base model's shape, random weights: in float, or with the rounding in place."""

    def __init__(self, b, sizes=None, shape=None, **settings):
        torch.manual_seed(0)
        rows, T = shape or b.pick(smoke=(1, 16), quick=(4, 256), full=(4, 256))
        sizes = sizes or b.pick(smoke=TINY, quick=SMALL, full=SMALL)
        self.model = GPT(ModelConfig(max_seq_len=T, tie_embeddings=True, **sizes)).to(b.device)
        draw = torch.Generator().manual_seed(0)
        tokens = torch.randint(sizes["vocab_size"], (rows, T + 1), generator=draw).to(b.device)
        self.batch, self.tokens = (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()), rows * T
        self.rounded = sum(m.weight.numel() for n, m in self.model.named_modules() if qat.in_blocks(n))
        if settings:
            qat.apply(self.model, qat.QATConfig(**settings))
        self.objective, plan = CausalLM(self.model), _tune.Plan()
        self.optimizer = plan.optimizer(self.objective, plan.train_config(b.device))
        self.bf16, self.device, self.first = dtype_for(b.device) == torch.bfloat16, b.device, None

    def __call__(self):
        """One update; the loss of the first one."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.objective(self.batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.first = loss.item() if self.first is None else self.first
        return self.first


def bench_step(b):
    """An update of the base model's shape, as trained for the claims above."""
    sides = {"float": Update(b), "learned steps": Update(b, bits=4),
             "observed steps": Update(b, bits=4, steps="observed"),
             "8-bit inputs": Update(b, bits=4, inputs="dynamic")}  # fmt: skip
    run = b.compare(sides, check=0.1, memory=False, budget=b.pick(smoke=0.5, quick=12, full=120))
    plain, one = run.sides["float"].median, sides["float"]
    extra = 4 * PASSES * one.rounded / b.ceilings.read
    for id, side, goal, what in (
        ("step", "learned steps", 1.25, "with learned steps"),
        ("step-observed", "observed steps", 1.25, "with observed steps"),
        ("step-inputs", "8-bit inputs", 2.0, "with learned steps and 8-bit inputs"),
    ):
        b.claim(id, f"An update with 4-bit weights, {what}, takes at most {goal} times as long as in float",
                unit="s", better="lower", goal=("<=", goal), measured=run.figures(side), bound=1.0,
                prediction=(plain + extra) / plain if id == "step" else None,
                settings={"tokens": one.tokens, "weights rounded": one.rounded, "bf16": one.bf16},
                why="the prediction counts passes over the rounded weights at this machine's rate of reading")


def bench_gpu(b):
    """At 124M weights: what an update costs, compiled. Recoveries there take a base model of that size."""
    step = {"unit": "s", "better": "lower", "goal": ("<=", 1.15)}
    sentence = "At 124M weights on a GPU an update takes at most 1.15 times as long as in BF16, compiled"
    if b.device.type == "cuda":  # pragma: no cover - gpu
        sides = {"float": Update(b, LARGE, (16, 1024)), "rounded": Update(b, LARGE, (16, 1024), bits=4)}
        for side in sides.values():
            side.objective.compile()
        run = b.compare(sides, check=0.1, memory=False)
        b.claim("gpu-step", sentence, **step, measured=run.figures("rounded"), bound=1.0)
    else:
        b.not_run("gpu-step", sentence, why="no GPU here", **step)
    b.library("torchao")
    for id, sentence, goal in (
        ("gpu-recovery", "At 124M weights it recovers at least 60 % at 4 bits", (">=", 0.6)),
        ("torchao", "There it recovers at least as much as torchao's in as many updates", (">=", 1.0)),
    ):
        b.not_run(id, sentence, goal=goal, why="there is no base model of 124M weights", **SHARE)


def main(b):
    folder = models() / "base"
    if chain.whole(folder):
        trial = Trial(b, folder)
        bench_recovery(b, trial)
        bench_tie(b, trial)
        bench_exact(b, trial.base)
    else:
        b.not_run("recovery-4", "At 4 bits it recovers at least 60 % of what rounding to nearest costs",
                  goal=(">=", 0.6), why="no models/base yet: ./thirty run 3", headline=True, **SHARE)
    bench_step(b)
    bench_gpu(b)


def profiled(b):
    return Update(b, bits=4)


if __name__ == "__main__":
    bench(main, profiled)
