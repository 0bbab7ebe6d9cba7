"""What only a GPU shows: a cache that saves operations but no time, until its step is one graph."""

import functools

import torch

from common.benchmark import values
from common.model import GPT, ModelConfig
from common.profiling import shortest

from ._modes import equal_but_ties
from ._theory import cost_of
from .kv_cache import KVCache, StaticCache, caches_for, decode, decode_ragged
from .static import Replayed

SPEED = {"unit": "tok/s", "better": "higher"}
SENTENCES = {
    "gpu-eager": ("Without a graph the cache gains less than 2 times at batch 1 and 200 tokens: launches",
                  ("<=", 2.0)),
    "gpu-1": ("As one CUDA graph the cache gains at least 4 times at batch 1 and 2,048 tokens", (">=", 4.0)),
    "gpu-32": ("As one CUDA graph the cache gains at least 20 times at batch 32 and 1,024 tokens",
               (">=", 20.0)),
    "gpu-bandwidth": ("Decoding a model of a billion weights reads at 65 % of the bandwidth or more",
                      (">=", 0.65)),
}  # fmt: skip


def bench_gpu(b):
    """The claims that need a CUDA device; elsewhere each says that it was not run."""
    if b.device.type != "cuda":
        for name, (sentence, goal) in SENTENCES.items():
            unit = {"unit": "of the bandwidth", "better": "higher"} if name == "gpu-bandwidth" else SPEED
            b.not_run(name, sentence, goal=goal, why="needs a CUDA device", **unit)
        return
    measured_gpu(b)  # pragma: no cover - gpu


def built(b, **sizes):  # pragma: no cover - gpu
    """A model in bfloat16 on the GPU; the 124M shape unless told otherwise."""
    torch.manual_seed(0)
    shape = {"vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048}
    return GPT(ModelConfig(**{**shape, **sizes}, max_seq_len=2048, tie_embeddings=True)).eval().to(
        b.device, torch.bfloat16)  # fmt: skip


@torch.no_grad()
def uncached_seconds(b, model, rows, total):  # pragma: no cover - gpu
    """Seconds of an answer of `total` tokens by recomputing: sixteen lengths timed, and summed between."""
    lengths = [max(1, total * i // 16) for i in range(1, 17)]
    seconds = []
    for length in lengths:
        tokens = torch.zeros(rows, length, dtype=torch.long, device=b.device)
        seconds.append(shortest(lambda t=tokens: model.head(model.hidden(t)[:, -1]), b.device, 0.2))
    edges = [0, *lengths]
    return sum((z - a) * s for a, z, s in zip(edges, lengths, seconds, strict=False))


def measured_gpu(b):  # pragma: no cover - gpu
    model = built(b)
    prompts = torch.randint(50257, (32, 32), generator=torch.Generator().manual_seed(0)).to(b.device)
    for name, rows, total in (("gpu-1", 1, 2048), ("gpu-32", 32, 1024)):
        new, tokens = total - 32, prompts[:rows]
        caches = caches_for(model, StaticCache, rows, total)
        step = Replayed(model, caches, rows)
        check = decode_ragged(model, tokens.tolist(), 32, caches, step=step)
        assert equal_but_ties(model, tokens, check, decode(model, tokens, 32)) or model.head.weight.dtype != (
            torch.float32), "the graph draws other tokens"  # fmt: skip
        whole = functools.partial(decode_ragged, model, tokens.tolist(), new, caches, step=step)
        cached = shortest(whole, b.device, 5.0)
        recomputed = uncached_seconds(b, model, rows, total)
        sentence, goal = SENTENCES[name]
        b.claim(name, sentence, goal=goal, **SPEED, settings={"rows": rows, "tokens": total},
                measured=values("cache, CUDA graph", [rows * new / cached], "recomputed",
                                [rows * new / recomputed]))  # fmt: skip
    sentence, goal = SENTENCES["gpu-eager"]
    tokens = prompts[:1]
    plain = shortest(lambda: decode(model, tokens, 168, caches_for(model, KVCache, 1, 200)), b.device, 3.0)
    anew = shortest(lambda: decode(model, tokens, 168), b.device, 3.0)
    b.claim("gpu-eager", sentence, goal=goal, **SPEED, settings={"rows": 1, "tokens": 200},
            measured=values("cache", [168 / plain], "recomputed", [168 / anew]))  # fmt: skip
    bandwidth(b)


@torch.no_grad()
def bandwidth(b):  # pragma: no cover - gpu
    model = built(b, n_layer=16, n_head=32, n_kv_head=8, d_model=2048, d_ff=8192, vocab_size=128256)
    caches = caches_for(model, StaticCache, 1, 1024)
    step, cost = Replayed(model, caches, 1), cost_of(model)
    tokens = torch.zeros(1, 1, dtype=torch.long, device=b.device)
    where = torch.full((1, 1), 1023, device=b.device)
    spent = shortest(lambda: step(tokens, positions=where, caches=caches), b.device, 2.0)
    sentence, goal = SENTENCES["gpu-bandwidth"]
    share = (cost.weights + 1024 * cost.kv) / spent / b.ceilings.read
    b.claim("gpu-bandwidth", sentence, goal=goal, unit="of the bandwidth", better="higher", bound=1.0,
            measured=values("cache, CUDA graph", [share]))  # fmt: skip
