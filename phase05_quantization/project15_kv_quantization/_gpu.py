"""What is measured on a GPU alone: how a decode step grows with the context, and where it pays."""

import functools

import torch

from common.benchmark import values
from common.model import GPT, ModelConfig, attend, set_attend
from common.profiling import shortest
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for

from .kv_quant import QuantizedCache, compiled
from .rows import INT4, INT8

# (id, sentence, unit, better, goal)
CLAIMS = (
    ("gpu-slope", "Each token more of context costs a decode step at most 0.58 times what it costs with a "
     "bfloat16 cache", "µs/token", "lower", ("<=", 0.58)),
    ("gpu-break-even", "From 7,000 tokens on a step is no slower", "tokens", "lower", ("<=", 7000)),
    ("gpu-capacity", "In the same memory fits at least 1.9 times the context", "tokens", "higher",
     (">=", 1.9)),
    ("gpu-int4", "With 4 bits a step at 32K tokens is no slower than with bfloat16", "steps/s", "higher",
     (">=", 1.0)),
)  # fmt: skip


def bench_gpu(b):
    """The claims about a GPU; where there is none, each of them says so."""
    if b.device.type == "cuda":  # pragma: no cover - gpu
        return measure(b)
    for name, sentence, unit, better, goal in CLAIMS:
        b.not_run(name, sentence, unit=unit, better=better, goal=goal, why="needs a CUDA device")


@torch.no_grad()
def seconds(b, model, kind, fn, S):  # pragma: no cover - gpu
    """Seconds of a step at S tokens."""
    caches = caches_for(set_attend(model, fn), kind, 1, S + 8)
    for cache in caches:
        for start in range(0, S, 4096):
            new = cache.k.new_empty(2, *cache.k.shape[:2], min(4096, S - start), cache.k.size(3)).normal_()
            cache.update(*new, torch.arange(start, start + new.size(3), device=b.device))
    token = torch.zeros(1, 1, dtype=torch.long, device=b.device)

    def step():
        for cache in caches:
            cache.length = S
        return model(token, caches=caches)

    return shortest(step, b.device, 1.0)


def measure(b):  # pragma: no cover - gpu
    torch.manual_seed(0)
    shape = {"vocab_size": 32000, "n_layer": 16, "n_head": 32, "n_kv_head": 8, "d_model": 4096, "d_ff": 11008}
    model = GPT(ModelConfig(**shape, max_seq_len=70_000)).eval().to(b.device, torch.bfloat16)
    quick, lengths = compiled(), b.pick(smoke=(512, 1024), quick=(2048, 32768), full=(2048, 32768, 65536))
    kinds = {"bfloat16": (KVCache, attend), "8 bits": (functools.partial(QuantizedCache, form=INT8), quick),
             "4 bits": (functools.partial(QuantizedCache, form=INT4), quick)}  # fmt: skip
    spent = {name: [seconds(b, model, *how, S) for S in lengths] for name, how in kinds.items()}
    slope = {name: 1e6 * (row[-1] - row[0]) / (lengths[-1] - lengths[0]) for name, row in spent.items()}
    full, ours = spent["bfloat16"], spent["8 bits"]
    ahead = ours[0] - full[0]  # what a step costs more at the shortest length
    even = lengths[0] + max(0.0, 1e6 * ahead / max(1e-9, slope["bfloat16"] - slope["8 bits"]))
    like = torch.empty(0, dtype=torch.bfloat16, device="meta")
    S = 32768
    fits = KVCache(1, 8, 128, S, like).k.nbytes * 2 / QuantizedCache(1, 8, 128, S, like, INT8).nbytes
    measured = {
        "gpu-slope": values("8 bits", [slope["8 bits"]], "bfloat16", [slope["bfloat16"]]),
        "gpu-break-even": values("8 bits", [even]),
        "gpu-capacity": values("8 bits", [S * fits], "bfloat16", [float(S)]),
        "gpu-int4": values("4 bits", [1 / spent["4 bits"][1]], "bfloat16", [1 / full[1]]),
    }
    for name, sentence, unit, better, goal in CLAIMS:
        settings = {"tokens": list(lengths)} | {f"{n}, s": row for n, row in spent.items()}
        b.claim(name, sentence, unit=unit, better=better, goal=goal, measured=measured[name],
                settings=settings)  # fmt: skip
