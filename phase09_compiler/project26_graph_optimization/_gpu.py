"""What only a GPU shows: a step that is recorded once and replayed, beside eager and `reduce-overhead`."""

import time

import torch

from common.benchmark import values
from common.device import synchronize
from common.model import GPT, ModelConfig
from common.profiling import shortest
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for
from phase03_core_inference.project08_kv_cache.static import Replayed

from .capture import capture
from .optimise import GENERAL, optimise

SPEED = {"unit": "tok/s", "better": "higher"}
SENTENCES = {
    "gpu-graph": ("Captured as a CUDA graph, a step of 124M weights at batch 1 is at least 2.5 times as fast "
                  "as eager", (">=", 2.5)),
    "gpu-reduce-overhead": ("The same is at least 0.95 times as fast as `torch.compile` with "
                            "`reduce-overhead`", (">=", 0.95)),
    "gpu-capture": ("Capturing takes at most 5 seconds", ("<=", 5.0)),
}  # fmt: skip


def bench_gpu(b):
    """The claims that need a CUDA device; elsewhere each says that it was not run."""
    if b.device.type != "cuda":
        for name, (sentence, goal) in SENTENCES.items():
            unit = {"unit": "s", "better": "lower"} if name == "gpu-capture" else SPEED
            b.not_run(name, sentence, goal=goal, why="needs a CUDA device", **unit)
        return
    measured_gpu(b)  # pragma: no cover - gpu


def rewritten(model, caches):  # pragma: no cover - gpu
    """The step's graph after the general passes: called as the model is called."""
    gm = capture(model, caches)
    optimise(gm, GENERAL)
    return lambda tokens, positions, caches: gm(tokens, positions)


@torch.no_grad()
def measured_gpu(b):  # pragma: no cover - gpu
    torch.manual_seed(0)
    sizes = {"vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048}
    model = GPT(ModelConfig(**sizes, max_seq_len=1024, tie_embeddings=True)).eval()
    model = model.to(b.device, torch.bfloat16)
    caches, other = (caches_for(model, StaticCache, 1, 1024) for _ in range(2))
    tokens, places = (torch.full((1, 1), n, device=b.device) for n in (7, 512))
    start = time.perf_counter()
    recorded = Replayed(rewritten(model, caches), caches, 1)
    synchronize(b.device)
    spent = time.perf_counter() - start
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True, dynamic=False)
    sides = {
        "eager": lambda: model(tokens, positions=places, caches=other),
        "recorded": lambda: recorded(tokens, positions=places, caches=caches),
        "reduce-overhead": lambda: compiled(tokens, positions=places, caches=other),
    }
    got = [side().float().clone() for side in sides.values()]
    assert all((x - got[0]).abs().max() < 0.1 for x in got), "the recorded step gives other logits"
    seconds = {name: shortest(side, b.device, 2.0) for name, side in sides.items()}
    for name, baseline in (("gpu-graph", "eager"), ("gpu-reduce-overhead", "reduce-overhead")):
        sentence, goal = SENTENCES[name]
        found = values("recorded", [1 / seconds["recorded"]], baseline, [1 / seconds[baseline]])
        b.claim(name, sentence, goal=goal, **SPEED, measured=found)
    sentence, goal = SENTENCES["gpu-capture"]
    b.claim("gpu-capture", sentence, goal=goal, unit="s", better="lower", measured=values("ours", [spent]))
