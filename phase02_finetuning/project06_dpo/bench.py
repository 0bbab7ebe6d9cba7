"""Measure the claims: a step beside trl's at two sizes, memory, equal accuracy; win rate, skill, accuracy.

trl runs as it ships, with our weights, on the same pairs. The last three are read off models/dpo and
models/sft; where there are none, off tiny ones, and then mean nothing.
"""

import copy
import dataclasses
import json
import tempfile
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F

from common import hub
from common import tokenizer as tokenizers
from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench
from common.model import GPT, ModelConfig
from common.profiling import peak_of
from common.training import train
from data.tinytown import TinyTown

from . import _data, _judge, _trl
from .dpo import (
    Pair,
    PreferenceLoss,
    sequence_logprobs,
    shared,
    side_by_side,
    token_logprobs,
    with_reference,
)
from .train import PRESETS

LAYOUTS = {"ours, side by side": side_by_side, "ours": shared}
SPEED = {"unit": "pairs/s", "better": "higher"}
STEPS = {"step": "A DPO update at GPT-2's 124M shape is at least 1.3 times as fast as trl's",
         "step-known": "It is at least 1.3 times as fast as trl's with the reference computed before, too",
         "step-small": "At the base model's 6.7M shape it is at least 1.3 times as fast"}  # fmt: skip
QUALITY = "After equal updates on equal pairs ours ranks held-out pairs at most 1 point worse than trl's"


def gpt2_shape(b):
    """124M weights; something that fits into a test where that is asked for."""
    full = {"vocab_size": 50304, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048}
    tiny = {"vocab_size": 320, "n_layer": 1, "n_head": 2, "n_kv_head": 2, "d_model": 32, "d_ff": 48}
    return b.pick(smoke=tiny, quick=full, full=full)


def base_shape(b):
    """The model of project 3."""
    full = {"vocab_size": 10_000, "n_layer": 6, "n_head": 8, "n_kv_head": 4, "d_model": 256, "d_ff": 640}
    return b.pick(smoke=gpt2_shape(b), quick=full, full=full)


def random_pairs(n, prompt, answer, vocab):
    """n pairs of random ids: a prompt of so many tokens, and two answers."""
    draw = torch.Generator().manual_seed(0)

    def ids(size):
        return torch.randint(vocab, (size,), generator=draw).tolist()

    return [Pair(ids(prompt), ids(answer), ids(answer)) for _ in range(n)]


def weights_of(sizes):
    """(in the blocks, in the head): the weights whose products cost."""
    C, D = sizes["d_model"], sizes["d_model"] // sizes["n_head"]
    heads = sizes["n_head"] + sizes["n_kv_head"]
    return sizes["n_layer"] * (2 * C * D * heads + 3 * C * sizes["d_ff"]), C * sizes["vocab_size"]


def predicted(sizes, prompt, answer, known):
    """trl's matrix products over ours: passes forward 2, back 4, the head once more to save memory."""
    blocks, head = weights_of(sizes)
    rows, passes = 2 * (prompt + answer), 0 if known else 2
    theirs = rows * ((6 + passes) * blocks + (8 + passes) * head)
    return theirs / ((prompt + 2 * answer) * 6 * blocks + 2 * answer * 8 * head)


def compare_step(b, sizes, n, prompt, answer, budget):
    """One update of every side; (comparison, settings)."""
    torch.manual_seed(0)
    size = ModelConfig(max_seq_len=max(64, prompt + answer), tie_embeddings=True, **sizes)
    model, reference = (GPT(size).to(b.device) for _ in range(2))
    pairs = random_pairs(n, prompt, answer, sizes["vocab_size"])
    folder = chain.find("sft", say=b.say)  # trl wants a tokenizer, though nothing is encoded
    sides = _trl.sides(model, reference, pairs, LAYOUTS, folder, b.device)
    run = b.compare(sides, check=1e-3, memory=False, budget=budget)
    return run, {"pairs": n, "prompt": prompt, "answer": answer,
                 "parameters": sum(p.numel() for p in model.parameters())}  # fmt: skip


def bench_step(b):
    """Whole updates: forward, backward, clip, AdamW, in fp32 on both sides."""
    if not b.library("trl"):
        for name, sentence in STEPS.items():
            b.not_run(name, sentence, goal=(">=", 1.3), headline=name == "step", **SPEED,
                      why="trl is not installed: it comes with the extra finetune")  # fmt: skip
        return
    prompt, answer = b.pick(smoke=(8, 4), quick=(32, 32), full=(128, 128))
    n, sizes = b.pick(smoke=2, quick=2, full=2), gpt2_shape(b)
    run, settings = compare_step(b, sizes, n, prompt, answer, b.pick(smoke=0.5, quick=30, full=300))
    for name, rival, known in (("step", "trl", False), ("step-known", "trl, reference known", True)):
        count = predicted(sizes, prompt, answer, known)
        b.claim(name, STEPS[name], goal=(">=", 1.3), headline=name == "step", **SPEED, settings=settings,
                measured=run.figures("ours", rival, work=n), prediction=count, bound=count,
                why="a count of matrix products: prompts read once, the head on answers alone"
                    + ("" if known else ", the reference known"))  # fmt: skip
    sizes = base_shape(b)
    prompt, answer = b.pick(smoke=(8, 4), quick=(24, 20), full=(24, 20))  # as TinyTown's are
    n = b.pick(smoke=2, quick=16, full=16)
    run, settings = compare_step(b, sizes, n, prompt, answer, b.pick(smoke=0.5, quick=15, full=100))
    b.claim("step-small", STEPS["step-small"], goal=(">=", 1.3), **SPEED, settings=settings,
            measured=run.figures("ours", "trl", work=n), prediction=predicted(sizes, prompt, answer, False),
            bound=predicted(sizes, prompt, answer, False), why="the same count")  # fmt: skip


def bench_memory(b):
    """Forward and backward of the log-probabilities alone, all logits at once and some at a time."""
    N, V, C = b.pick(smoke=(64, 500, 16), quick=(1024, 50304, 256), full=(2048, 50304, 768))
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, C, generator=draw).to(b.device) for size in (N, V))
    targets = torch.randint(V, (N,), generator=draw).to(b.device)

    def run(logprobs):
        states, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        logprobs(lambda h: F.linear(h, head), states, targets).sum().backward()
        return states.grad

    def naive(head, states, ids):
        return head(states).log_softmax(-1).gather(1, ids[:, None])

    chunk = b.pick(smoke=8, quick=128, full=256)
    held = {"all logits": peak_of(lambda: run(naive), b.device),
            "chunked": peak_of(lambda: run(lambda *a: token_logprobs(*a, chunk=chunk)), b.device)}
    b.claim("memory", "Log-probabilities in chunks hold at most 0.4 times the memory of all logits at once",
            unit="bytes", better="lower", goal=("<=", 0.4), settings={"N": N, "V": V, "C": C, "chunk": chunk},
            measured=values("chunked", [held["chunked"]], "all logits", [held["all logits"]]),
            prediction=(2 * chunk * V + 2 * V * C) / (3 * N * V + 2 * V * C),
            why="the weight and its gradient stay; logits are there for a chunk only")  # fmt: skip


def accuracy_of(model, reference, pairs):
    """The share of pairs whose chosen answer gained more than the rejected one."""
    right = []
    for some in _data.batches(pairs, 32):
        batch = with_reference(reference, shared(some))
        with torch.no_grad():
            chosen, rejected = sequence_logprobs(model, batch) - batch.reference
        right += (chosen > rejected).tolist()
    return sum(right) / len(right)


def ours(sft, ordered, config, folder, device, steps, rate, beta):
    """What our loop makes of the model, on the same pairs in the same order."""
    model = copy.deepcopy(sft)

    def batch_at(i):
        some = ordered[i * config.batch_size : (i + 1) * config.batch_size]
        return with_reference(sft, shared(some))

    settings = dataclasses.replace(config.train_config(device, steps, rate), precision="fp32")
    train(PreferenceLoss(model, beta=beta), batch_at, settings, folder=folder, say=lambda line: None)
    return model


def bench_quality(b):
    """DPOTrainer's training and ours, from models/sft, each on the same pairs in the same order."""
    claim = {"unit": "of pairs", "better": "higher", "goal": (">=", -0.01)}
    if not b.library("trl"):
        why = "trl is not installed: it comes with the extra finetune"
        b.not_run("accuracy-trl", QUALITY, why=why, **claim)
        return
    steps, seeds = b.pick(smoke=2, quick=6, full=60), b.pick(smoke=(0,), quick=(0,), full=(0, 1, 2))
    place = chain.find("sft", say=b.say)
    tokenizer, sft, found = tokenizers.load(place), hub.load(place, device=b.device), {"ours": [], "trl": []}
    for seed in seeds:
        sizes = {"batch_size": b.pick(smoke=4, quick=8, full=16),
                 "held_out": b.pick(smoke=16, quick=100, full=400)}  # fmt: skip
        config = dataclasses.replace(PRESETS["smoke"], seed=seed, pairs=steps * sizes["batch_size"], **sizes)
        data = _data.read(config, tokenizer, sft.config.max_seq_len, say=lambda line: None)
        with tempfile.TemporaryDirectory() as name:
            folder, how = Path(name), {"steps": steps, "rate": 2e-4, "beta": 0.1}
            mine = ours(sft, data.pairs, config, folder / "ours", b.device, **how)
            other = _trl.trained(sft, data.pairs, config, folder, place, b.device, **how)
        for side, model in (("ours", mine), ("trl", other)):
            found[side].append(accuracy_of(model, sft, data.held))
    gaps = [a - z for a, z in zip(found["ours"], found["trl"], strict=True)]
    b.claim("accuracy-trl", QUALITY, measured=values("ours - trl", gaps), settings={**found, "steps": steps},
            why="one algorithm on one order of pairs", **claim)  # fmt: skip


def rounded(shares):
    """Three digits are what so many questions can tell apart."""
    return {name: round(value, 3) for name, value in shares.items()}


def bench_models(b):
    """What is in models/dpo, against models/sft."""
    tuned, before = (chain.find(link, say=b.say) for link in ("dpo", "sft"))
    tokenizer = tokenizers.load(tuned)
    model, sft = (hub.load(folder, device=b.device) for folder in (tuned, before))
    rows = list(islice(TinyTown().preferences("held-out", seed=2), b.pick(smoke=8, quick=60, full=600)))
    length = b.pick(smoke=8, quick=40, full=40)
    found = _judge.duel(model, sft, tokenizer, rows, max_tokens=length)
    metrics = json.loads((tuned / "card.json").read_text("utf-8"))["metrics"]
    where = {"model": tuned.name if tuned.parent.name == "models" else "a tiny stand-in"}
    b.claim("win-rate", "The judge prefers the tuned model's replies to the SFT model's more often than not",
            unit="of questions", better="higher", goal=(">=", 0.5),
            measured=values("tuned", [found["win_rate"]]),
            settings={**where, "questions": len(rows), "interval of the win rate": found["interval"],
                      "tuned": rounded(found["ours"]), "SFT": rounded(found["theirs"])})  # fmt: skip
    skills = [_judge.skill_of(m, tokenizer, len(rows), max_tokens=length) for m in (model, sft)]
    b.claim("skill", "The tuned model answers at most 2 points fewer held-out questions rightly",
            unit="of questions", better="higher", goal=(">=", -0.02), settings={**where, "skills": skills},
            measured=values("tuned - SFT", [skills[0] - skills[1]]))  # fmt: skip
    b.claim("accuracy", "It ranks at least 90 % of the held-out pairs rightly", unit="of pairs",
            better="higher", goal=(">=", 0.9), settings={**where, "KL from the reference": metrics.get("kl")},
            measured=values("tuned", [metrics["accuracy"]]),
            why="found by the run that made the model")  # fmt: skip


def main(b):
    bench_step(b)
    bench_memory(b)
    bench_quality(b)
    bench_models(b)


def profiled(b):
    sizes = gpt2_shape(b)
    model = GPT(ModelConfig(max_seq_len=256, tie_embeddings=True, **sizes)).to(b.device)
    objective = PreferenceLoss(model)
    batch = shared(random_pairs(2, 128, 128, sizes["vocab_size"])).to(b.device)
    return _trl.update(objective.parameters(), lambda: objective(batch))


if __name__ == "__main__":
    bench(main, profiled)
