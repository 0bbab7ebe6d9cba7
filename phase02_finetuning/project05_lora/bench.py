"""Measure the claims: a step beside full fine-tuning and peft, peak memory, quality at 1 % of the weights."""

import copy
import statistics
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from common import hub
from common import tokenizer as tokenizers
from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench
from common.cli.paths import models
from common.device import dtype_for, matmul_parameters, model_flops
from common.model import GPT, ModelConfig
from common.recipe import TrainConfig, adamw

from . import _build, _memory, _see, _seven, adapter, lora, nf4

SPEED = {"unit": "tok/s", "better": "higher"}
SMALL = {"n_layer": 6, "d_model": 256, "n_head": 8, "n_kv_head": 4, "d_ff": 640, "vocab_size": 10_000}
LARGE = {"n_layer": 12, "d_model": 768, "n_head": 12, "n_kv_head": 12, "d_ff": 2048, "vocab_size": 50_304}
TINY = {"n_layer": 1, "d_model": 64, "n_head": 4, "n_kv_head": 2, "d_ff": 128, "vocab_size": 300}
RANKS = {"124m": 16, "small": 3}
MEMORY = {"lora": 0.7, "qlora": 0.65, "recomputed": 0.45}  # of training every weight
STEPS = (
    ("full", "every weight", 1.25, "At {} a LoRA step is at least 1.25 times as fast as one of every weight"),
    ("peft", "peft", 1.15, "At {} our LoRA step is at least 1.15 times as fast as peft's on the same model"),
    ("transformers", "peft, transformers", 1.15,
     "At {} it is at least 1.15 times as fast as peft on transformers' Llama"),
)  # fmt: skip


class Shape:
    """A model of random weights, a batch, and one update of it in several ways."""

    def __init__(self, b, sizes, rank):
        torch.manual_seed(0)
        rows, T = b.pick(smoke=(1, 16), quick=(4, 256), full=(4, 256))
        self.device, self.rank, self.bf16 = b.device, rank, dtype_for(b.device) == torch.bfloat16
        self.base = GPT(ModelConfig(max_seq_len=T, tie_embeddings=True, **sizes)).to(b.device)
        draw = torch.Generator().manual_seed(0)
        tokens = torch.randint(sizes["vocab_size"], (rows, T + 1), generator=draw).to(b.device)
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def frozen(self):
        """A copy for adapters: in bfloat16 where products are made in it, as nothing of it is updated."""
        return copy.deepcopy(self.base).to(torch.bfloat16 if self.bf16 else torch.float32)

    def update(self, model, loss_of=None):
        """A function that makes one update and returns the loss of the first one."""
        optimizer = adamw(model, TrainConfig(learning_rate=1e-4, min_learning_rate=0.0, weight_decay=0.0))
        trained, first = [p for p in model.parameters() if p.requires_grad], []
        loss_of = loss_of or self.cross_entropy
        model.train()

        def step():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss = loss_of(model)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            first.append(loss.detach().float()) if not first else None
            return first[0]

        return step

    def cross_entropy(self, model):
        """Of all tokens; every side but transformers' own."""
        return F.cross_entropy(model(self.inputs).float().flatten(0, 1), self.targets.flatten())

    def config(self):
        return lora.LoRAConfig(self.rank, 2.0 * self.rank)

    def ours(self):
        return self.update(lora.apply(self.frozen(), self.config()))

    def qlora(self):
        model = nf4.apply(self.frozen())
        return self.update(lora.apply(model, self.config(), kind=nf4.NF4Linear))

    def full(self):
        return self.update(copy.deepcopy(self.base))

    def gains(self):
        """What no LoRA can pass: a gradient through all frozen matrices, and no adapter."""
        model = self.frozen().requires_grad_(False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)
        return self.update(model)

    def peft(self):
        import peft

        wanted = peft.LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules=list(lora.MATRICES))
        return self.update(peft.get_peft_model(self.frozen(), wanted))

    def transformers(self):
        """peft on transformers' model of the same shape and weights, with its own loss."""
        import peft
        from transformers import LlamaConfig, LlamaForCausalLM

        family = hub.FAMILIES["llama"]
        theirs = LlamaForCausalLM(LlamaConfig(**family.describe(self.base)))
        theirs.load_state_dict(family.to_theirs(dict(self.base.state_dict())))
        names = sorted({adapter.their_name(name).rpartition(".")[2]
                        for name, _ in self.base.named_modules() if name.rpartition(".")[2] in lora.MATRICES})
        wanted = peft.LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules=names)
        model = peft.get_peft_model(theirs.to(self.frozen().embed.weight.dtype).to(self.device), wanted)
        return self.update(model, lambda model: model(
            input_ids=self.inputs, shift_labels=self.targets, labels=self.targets, use_cache=False).loss)

    def flops(self):
        """{side: FLOPs of an update}: frozen matrices need no product for their own gradient."""
        size, T, n = self.base.config, self.inputs.size(1), self.inputs.numel()
        N, layers, width = matmul_parameters(self.base), size.n_layer, size.n_head * size.head_dim
        whole = model_flops(N, layers, width, T)
        thin = sum(m.in_features + m.out_features for name, m in self.base.named_modules()
                   if name.rpartition(".")[2] in lora.MATRICES) * self.rank  # fmt: skip
        return {"full": whole * n, "lora": (whole - 2 * N + 6 * thin) * n}


def bench_step(b, name, sizes, said):
    """One update of LoRA beside every weight, peft on the same model, and peft on transformers'."""
    shape = Shape(b, b.pick(smoke=TINY, quick=sizes, full=sizes), RANKS[name])
    rivals = b.library("peft") and b.library("transformers")
    sides = {"every weight": shape.full(), "LoRA": shape.ours(), "no adapter": shape.gains()}
    if rivals:
        sides |= {"peft": shape.peft(), "peft, transformers": shape.transformers()}
    flops, tokens = shape.flops(), shape.inputs.numel()
    counts = {side: {"FLOPs": flops["full" if side == "every weight" else "lora"]} for side in sides}
    run = b.compare(sides, check=0.05, counts=counts, memory=False,
                    budget=b.pick(smoke=0.3, quick=20, full=240 if name == "124m" else 60))  # fmt: skip
    least = run.sides["no adapter"].median
    settings = {"batch": list(shape.inputs.shape), "rank": shape.rank, "bf16": shape.bf16,
                "parameters": sum(p.numel() for p in shape.base.parameters())}  # fmt: skip
    for end, rival, goal, sentence in STEPS:
        claim = {"goal": (">=", goal), **SPEED}
        if rival not in sides:
            b.not_run(f"{name}-{end}", sentence.format(said), why="peft or transformers is not here", **claim)
            continue
        full = rival == "every weight"
        b.claim(f"{name}-{end}", sentence.format(said), **claim, settings=settings,
                measured=run.figures("LoRA", rival, work=tokens),
                bound=run.sides[rival].median / least,
                prediction=flops["full"] / flops["lora"] if full else None,
                why="the bound is a step in which adapters cost nothing")  # fmt: skip
    bench_coded(b, name, shape, said)


def bench_coded(b, name, shape, said):
    """What it costs to make 4-bit weights whole again, twice in every product."""
    run = b.compare({"LoRA": shape.ours(), "QLoRA": shape.qlora()}, check=0.2, memory=False,
                    budget=b.pick(smoke=0.3, quick=8, full=60))  # fmt: skip
    b.claim(f"{name}-qlora", f"At {said} a QLoRA step runs at 0.85 of LoRA's speed or better",
            goal=(">=", 0.85), bound=1.0, **SPEED,
            measured=run.figures("QLoRA", "LoRA", work=shape.inputs.numel()),
            why="each frozen matrix is made whole for forward and again for backward")  # fmt: skip


def bench_memory(b):
    """Peak memory of two updates at GPT-2's 124M shape, each side in fresh processes, in float32."""
    sizes = b.pick(smoke={**TINY, "rows": 1, "context": 16}, quick=LARGE, full=LARGE)
    sizes = {name: size for name, size in sizes.items() if name != "n_kv_head"}
    runs = b.pick(smoke=1, quick=1, full=3)
    goals = b.pick(smoke={"qlora": 0.65}, quick=MEMORY, full=MEMORY)
    found = {}
    for name in ("full", *goals):
        trial = _memory.Trial(**_see.SIDES[name], **sizes, device=str(b.device))
        found[name] = [_memory.fresh(trial) for _ in range(runs)]
        b.say(f"{_see.NAMES[name]}: {found[name][0]['peak'] / 1e9:.2f} GB".replace("\n", " "))
    peaks = {name: [row["peak"] for row in rows] for name, rows in found.items()}
    floor = statistics.median(row["floor"] for row in found["full"])
    for name, goal in goals.items():
        said = _see.NAMES[name].replace("\n", " ")
        b.claim(f"memory-{name}", f"{said} needs at most {goal} of the memory of training every weight",
                unit="bytes", better="lower", goal=("<=", goal),
                measured=values(said, peaks[name], "every weight", peaks["full"]),
                bound=floor / statistics.median(peaks["full"]),
                why="largest size of a fresh process; the bound is one that has imported torch and no more",
                settings={"trained": found[name][0]["trained"], "weights": found[name][0]["weights"]},
                )  # fmt: skip


def bench_quality(b):
    """The score on TinyTown after equally many updates of the base model: every weight against 1.2 %."""
    claim = {"unit": "points", "better": "lower", "goal": ("<=", 2.0), "headline": True}
    sentence = "LoRA with about 1 % of the weights comes within 2 points of training all of them, on TinyTown"
    folder = models() / "base"
    if not chain.whole(folder):
        return b.not_run("quality", sentence, why="no models/base yet: ./thirty run 3", **claim)
    steps, size = b.pick(smoke=(2, 2), quick=(20, 48), full=(300, 48))
    rates = b.pick(smoke=(5e-3,), quick=(5e-3,), full=(3e-3, 1e-2))
    config = SimpleNamespace(steps=steps, batch_size=size, context=192, held_out=1, seed=0, rates=rates)
    tokenizer, base = tokenizers.load(folder), hub.load(folder, device=b.device)
    lab = _see.Lab(config, SimpleNamespace(device=b.device, say=b.say), base, tokenizer)
    judged = b.pick(smoke=1, quick=4, full=40)

    def points(dress, rate, seed):
        return 100 * _build.score(lab.fit(dress, rate, seed)[0], tokenizer, judged)["score"]

    dresses = {"every weight": lambda model: model.requires_grad_(True), "LoRA": lab.adapters(RANKS["small"])}
    rates = {"every weight": [rate / 5 for rate in config.rates], "LoRA": list(config.rates)}
    best = {name: max(rates[name], key=lambda rate, name=name: points(dresses[name], rate, 0))
            if len(config.rates) > 1 else rates[name][0] for name in dresses}  # fmt: skip
    seeds = range(1, b.pick(smoke=2, quick=2, full=4))  # the rates were chosen by seed 0
    found = {name: [points(dress, best[name], seed) for seed in seeds] for name, dress in dresses.items()}
    trained, every = _build.count(dresses["LoRA"](copy.deepcopy(base)))
    lost = [full - ours for full, ours in zip(found["every weight"], found["LoRA"], strict=True)]
    b.claim("quality", sentence, **claim, measured=values("points lost", lost),
            settings={**found, "trained": trained, "weights": every, "rate": best, "rank": RANKS["small"],
                      "updates": config.steps})  # fmt: skip
    return None


def main(b):
    bench_quality(b)
    bench_step(b, "124m", LARGE, "GPT-2's 124M shape")
    bench_step(b, "small", SMALL, "the base model's 6.7M shape")
    bench_memory(b)
    _seven.bench_seven(b)


def profiled(b):
    return Shape(b, b.pick(smoke=TINY, quick=LARGE, full=LARGE), RANKS["124m"]).ours()


if __name__ == "__main__":
    bench(main, profiled)
