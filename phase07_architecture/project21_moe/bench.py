"""Measure the claims: loss at equal FLOPs and at equal time, an even load, the speed of a sorted layer.

The mixtures have 16 experts, of which a token meets 2, which together are as large as the dense feed-forward.
"""

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

import torch

from common.benchmark import values
from common.cli.bench import bench
from common.recipe import adamw
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import _break, _gpu, _lab, grouped, moe, router, surgery
from ._sides import alike, and_back, flops, layer, routed, ways, written_out
from .moe import MoEConfig
from .train import BALANCE, PRESETS

NATS = {"unit": "nats a token", "better": "lower"}
SPEED = {"unit": "tokens/s", "better": "higher"}
EXPERTS, K = 16, 2


class Trial:
    """Trainings on one text: for each seed a dense model, a mixture, and a dense one for as long a time."""

    def __init__(self, b, folder):
        preset = PRESETS["smoke"] if b.mode == "smoke" else PRESETS["cpu"]
        self.plan = preset.plan
        self.steps = b.pick(smoke=3, quick=40, full=self.plan.steps)
        self.seeds, self.say, self.b = range(b.pick(smoke=1, quick=1, full=3)), b.say, b
        self.folder, self.runs = folder, 0
        self.town = _lab.small_town(self.plan, folder / "tokenizer", b.device)

    def fit(self, model, seed, steps=None):
        self.runs += 1
        plan = replace(self.plan, steps=steps or self.steps, seed=seed)
        _lab.fit(model.to(self.b.device), self.town, plan, self.folder / str(self.runs))
        return model

    def dense(self, seed):
        return self.plan.dense(self.town.tokenizer.vocab_size, seed)

    def mixture(self, seed=0, balance="loss"):
        config = MoEConfig(experts=EXPERTS, k=K, scale=K, **BALANCE[balance])
        return _lab.mixture(self.plan, self.town.tokenizer.vocab_size, config, seed)

    def loss(self, model):
        return self.town.loss(model, self.plan.context)

    def load(self, model):
        """(mean CV over the layers, mean entropy) of the load on unseen pages."""
        counts = _lab.loads(model, self.town, self.plan.context)
        return _lab.mean_cv(counts), fmean(map(router.evenness, counts))

    @cached_property
    def clock(self):
        """An update of each, timed in turns: {"dense", "experts"} -> how many times longer experts take."""
        sides = {"dense": Update(self, self.dense(0)), "experts": Update(self, self.mixture())}
        return self.b.compare(sides, check=0.5, memory=False,
                              budget=self.b.pick(smoke=0.5, quick=10, full=60))  # fmt: skip

    @cached_property
    def trained(self):
        """{"dense", "experts", "dense, as long"}: losses by seed; and the mixtures themselves."""
        longer = max(1.0, 1 / self.clock.speedup("experts")[0])
        found = {"dense": [], "experts": [], "dense, as long": []}
        self.models = []
        for seed in self.seeds:
            self.models.append(self.fit(self.mixture(seed), seed))
            found["experts"].append(self.loss(self.models[-1]))
            found["dense"].append(self.loss(self.fit(self.dense(seed), seed)))
            more = self.fit(self.dense(seed), seed, round(self.steps * longer))
            found["dense, as long"].append(self.loss(more))
            said = ", ".join(f"{name} {row[-1]:.4f}" for name, row in found.items())
            self.say(f"  seed {seed}: {said}")
        return found


class Update:
    """One update of a model, as in the trainings; returns the first one's loss."""

    def __init__(self, trial, model):
        plan = replace(trial.plan, steps=trial.steps, seed=0)
        self.objective = CausalLM(model.to(trial.b.device))
        if any(isinstance(module, moe.MoE) for module in model.modules()):
            self.objective = surgery.Balanced(self.objective)
        self.optimizer = adamw(self.objective, plan.train_config(trial.b.device))
        self.batch, self.first = trial.town.batches(plan)(0), None

    def __call__(self):
        loss = self.objective(self.batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.first = loss.item() if self.first is None else self.first
        return self.first


def bench_quality(b, trial):
    """The headline: the same tokens, the same FLOPs a token; and the same time."""
    found, model = trial.trained, trial.models[0]
    every, used = surgery.active(model)
    plain = sum(p.numel() for p in trial.dense(0).parameters())
    settings = {"losses": found, "weights, dense": plain, "weights, experts": every, "met by a token": used,
                "updates": trial.steps, "tokens of an update": trial.plan.tokens}
    b.claim("quality", "At equal tokens, and as many FLOPs a token, 16 experts reach a loss at least 1.5 % "
            "below the dense model's", headline=True, **NATS, goal=("<=", 0.985), settings=settings,
            measured=values("experts", found["experts"], "dense", found["dense"]),
            why=f"unseen pages of TinyTown; {every / plain:.1f} times the weights")  # fmt: skip
    longer, interval = trial.clock.speedup("experts")
    settings = {**settings, "an update of the dense model, in those of the mixture": [longer, interval]}
    b.claim("wall-clock", "At equal time on this machine's clock the loss is still below the dense model's",
            **NATS, goal=("<", 1.0), settings=settings,
            measured=values("experts", found["experts"], "dense, as long", found["dense, as long"]),
            why="the dense model gets as many updates more as an update of the mixture takes longer")


def bench_balance(b, trial):
    """How even the load is on unseen pages."""
    trial.trained  # noqa: B018 - trains what is judged
    cvs, evens = zip(*map(trial.load, trial.models), strict=True)
    alone, settings = {}, {"entropy over its largest": {"loss": evens}}
    for name in ("bias", "none"):
        model = trial.fit(trial.mixture(0, name), 0)
        alone[name], even = trial.load(model)
        settings["entropy over its largest"][name] = even
        settings[f"loss, {name}"] = trial.loss(model)
    settings["dropped with room for 1.25"] = dropped(trial)
    cv = {"unit": "CV of the load", "better": "lower"}
    b.claim("balance", "With the balance loss the load's CV on unseen pages is at most 0.2", **cv,
            goal=("<=", 0.2), measured=values("balance loss", cvs), settings=settings, bound=0.0)
    b.claim("balance-bias", "With the bias and no loss it is at most 0.2 too", **cv, goal=("<=", 0.2),
            measured=values("bias", [alone["bias"]]), bound=0.0)  # fmt: skip
    b.claim("collapse", "Without either, the load's CV is at least three times as large as with the loss",
            unit="CV of the load", better="higher", goal=(">=", 3.0),
            measured=values("nothing", [alone["none"]], "balance loss", [cvs[0]]))  # fmt: skip


def dropped(trial):
    """The share of choices that experts with room for 1.25 of their share would have dropped."""
    lab = type("Lab", (), {"town": trial.town, "plan": trial.plan})
    return _break.lost(lab, trial.models[0], 1.25)


def everything(run, x, routing, made):
    """What a way gives, and its gradients: of the rows, the routing's weights, all experts."""
    y = run(x, routing, made.experts)
    given = [x, routing.weights, *made.experts.parameters()]
    rows, weighed, *experts = torch.autograd.grad(y.square().sum(), given)
    return y.detach(), rows, weighed, torch.cat([g.flatten() for g in experts])


def errors(b, seed):
    """{way: the largest error of outputs and gradients, each over its largest number, against float64}."""
    N, C, F, E = b.pick(smoke=(24, 16, 32, 4), quick=(256, 128, 256, EXPERTS), full=(256, 128, 256, EXPERTS))
    made, _ = layer(C, F, E, K, b.device, seed=seed)
    x = torch.randn(N, C, device=b.device).requires_grad_()
    routing = routed(made, x, even=seed % 2)
    routing = routing._replace(weights=routing.weights.clone().requires_grad_())
    ways = {"mask": moe.masked, "loop": moe.loop, "sorted": moe.sorted_segments}
    found = {name: everything(run, x, routing, made) for name, run in ways.items()}
    want = everything(written_out, x.detach().double().requires_grad_(), routing, made.double())
    return {name: max(((a - w).abs().max() / w.abs().max()).item() for a, w in zip(got, want, strict=True))
            for name, got in found.items()}  # fmt: skip


def bench_exact(b):
    """Against the sum written out in float64: must hold."""
    runs = [errors(b, seed) for seed in range(b.pick(smoke=2, quick=4, full=8))]
    rows = {name: [run[name] for run in runs] for name in runs[0]}
    b.claim("exact", "Outputs and all gradients of the sorted way are those of the sum written out in "
            "float64, to 1e-5 of the largest", unit="largest error", better="lower", goal=("<=", 1e-5),
            measured=values("sorted", rows["sorted"]), settings={"others": rows},
            why="float32 against float64: what is left is rounding")  # fmt: skip


def case(b, N, even=True):
    """(tokens, {name: call} forward and backward) at the sizes of the claims."""
    C, F, E = b.pick(smoke=(32, 64, 4), quick=(256, 640, EXPERTS), full=(256, 640, EXPERTS))
    made, dense = layer(C, F, E, K, b.device)
    x = torch.randn(N, C, device=b.device).requires_grad_()
    routing = routed(made, x, even)
    stacked = grouped.Stacked(made.experts, grouped.by_torch)
    owner = {"dense": dense, "grouped": stacked}
    sides = {name: and_back(call, [x, *owner.get(name, made.experts).parameters()])
             for name, call in ways(made, dense, stacked, x, routing).items()}  # fmt: skip
    return sides, {name: {"FLOPs": flops(N, C, F) * (E / K if name == "mask" else 1)} for name in sides}


def bench_speed(b):
    """The layer alone, forward and backward, float32."""
    N = b.pick(smoke=64, quick=2048, full=2048)
    sides, counts = case(b, N)
    run = b.compare(sides, check=alike, counts=counts, memory=False)
    fastest = N * b.ceilings.fp32 / counts["sorted"]["FLOPs"]
    for id, rival, goal, sentence, why in (
        ("sorted-mask", "mask", 3.0, "The sorted way is at least 3 times as fast as all experts under a mask",
         "the mask computes E / k = 8 times the products"),
        ("sorted-loop", "loop", 3.0, "It is at least 3 times as fast as the loop that computes as little",
         "both do the same products: only gathers, adds and copies can be saved; see the sweep"),
        ("dense", "dense", 0.8, "It is at least 0.8 times as fast as a dense layer of as many FLOPs",
         "16 products of 256 rows for one of 2,048, and two copies of the rows"),
    ):  # fmt: skip
        settings = {"tokens": N, "all ways, s": {name: side.median for name, side in run.sides.items()}}
        measured = run.figures("sorted", rival, work=N)
        if id != "sorted-mask":
            sizes = b.pick(smoke=(16,), quick=(64, 512), full=(16, 64, 256, 1024, 4096))
            settings["sweep"] = b.sweep("tokens", sizes, lambda n, r=rival: pair(b, n, r), "sorted")
        b.claim(id, sentence, **SPEED, goal=(">=", goal), measured=measured, why=why, settings=settings,
                bound=fastest / measured["baseline"].value)  # fmt: skip


def pair(b, N, rival):
    """The sorted way and one other at another number of tokens."""
    sides, _ = case(b, N)
    return b.compare({name: sides[name] for name in (rival, "sorted")}, check=alike, memory=False,
                     budget=b.pick(smoke=0.2, quick=4, full=20))  # fmt: skip


def main(b):
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(b, Path(folder))
        bench_quality(b, trial)
        bench_balance(b, trial)
    bench_exact(b)
    bench_speed(b)
    _gpu.bench_gpu(b)


def profiled(b):
    return case(b, b.pick(smoke=64, quick=2048, full=2048))[0]["sorted"]


if __name__ == "__main__":
    bench(main, profiled)
