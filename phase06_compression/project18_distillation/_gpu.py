"""What is measured on a GPU alone: the loss beside Liger's, and a student of a base model of its size."""

import torch

from common.benchmark import values
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import _fit
from ._heads import Heads
from .logit_kd import gap_closed

PLACES = "8,192 places of 128,000 ids, bfloat16: the loss and its gradients, a chunk at a time, "
# id: (sentence, unit, better, goal)
CLAIMS = {
    "gpu-gap": ("From 124M to 30M weights: at least 30 % of the gap closed at equal updates", "of the gap",
                "higher", (">=", 0.3)),
    "gpu-liger": (PLACES + "take at most 1.1 times as long as Liger's", "s", "lower", ("<=", 1.1)),
    "gpu-memory": (PLACES + "hold at most a fifth of the memory of all logits", "bytes", "lower",
                   ("<=", 0.2)),
}  # fmt: skip
LARGE = 100_000_000  # weights from which on a base model is one for a GPU


def named(name):
    """What a claim's two functions have in common."""
    sentence, unit, better, goal = CLAIMS[name]
    return (name, sentence), {"unit": unit, "better": better, "goal": goal}


def skip(b, name, why):
    (_, sentence), how = named(name)
    b.not_run(name, sentence, why=why, **how)


def bench_gpu(b, trial):
    """The claims about the GPU; where there is none, each says so. trial: a `Trial` of the gpu preset, or
    None."""
    if b.device.type != "cuda":
        for name in CLAIMS:
            skip(b, name, "no CUDA device")
        return
    bench_large(b, trial)  # pragma: no cover - gpu
    bench_liger(b)  # pragma: no cover - gpu


def bench_large(b, trial):  # pragma: no cover - gpu
    """One seed, both students."""
    if trial is None or _fit.weights(trial.teacher) < LARGE:
        return skip(b, "gpu-gap", "there is no base model of 124M weights")
    alone, made = (trial.fit(kind(trial.student(0)), 0)[0] for kind in (CausalLM, trial.taught))
    losses = [trial.judged(model)["loss"] for model in (alone, made, trial.teacher)]
    claim, how = named("gpu-gap")
    b.claim(*claim, **how, measured=values("distilled", [gap_closed(*losses)]), bound=1.0,
            settings=dict(zip(("alone", "distilled", "teacher"), losses, strict=True)))  # fmt: skip


def alike(one, other):
    """Gradients of bfloat16 logits."""
    return all((p - q).abs().max() <= 0.05 * p.abs().max() for p, q in zip(one, other, strict=True))


def bench_liger(b):  # pragma: no cover - gpu
    """Our pieces beside Liger's, compiled as it comes; and beside all logits at once."""
    large = 8192, 1024, 2048, 128_000, 1024
    sizes = b.pick(smoke=(256, 64, 128, 1000, 64), quick=large, full=large)
    heads = Heads(*sizes, b.device, torch.bfloat16)
    sides = {"all at once": heads.at_once, "in chunks": heads.in_chunks}
    if b.library("liger-kernel"):
        sides["Liger"] = heads.liger()
    run = b.compare(sides, check=alike)
    if "Liger" in sides:
        claim, how = named("gpu-liger")
        b.claim(*claim, **how, measured=run.figures("in chunks", "Liger"), settings=heads.shape)
    else:
        skip(b, "gpu-liger", "liger-kernel is not installed")
    peaks = [[run.sides[name].peak_memory] for name in ("in chunks", "all at once")]
    claim, how = named("gpu-memory")
    b.claim(*claim, **how, measured=values("in chunks", peaks[0], "all at once", peaks[1]),
            settings=heads.shape)  # fmt: skip
