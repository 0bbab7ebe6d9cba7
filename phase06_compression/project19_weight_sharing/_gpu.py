"""What is measured on a GPU alone: the shape of 124M weights, an update and the memory that it takes."""

import torch

from common.benchmark import values
from common.device import peak_memory, reset_peak
from common.model import ModelConfig
from common.recipe import TrainConfig, adamw
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import _ways

LARGE = ModelConfig(vocab_size=50_304, n_layer=12, n_head=12, n_kv_head=12, d_model=768, d_ff=2048,
                    max_seq_len=1024)  # fmt: skip
CLAIMS = {
    "gpu-step": ("At 124M weights on a GPU an update takes at most 1.02 times as long where pairs of layers "
                 "share", ("<=", 1.02), {"unit": "s", "better": "lower"}),
    "gpu-memory": ("There its weights, gradients and moments take at most 0.75 times as much memory",
                   ("<=", 0.75), {"unit": "bytes", "better": "lower"}),
    "gpu-loss": ("There the loss is at most 1.5 % higher", ("<=", 1.015),
                 {"unit": "nats a token", "better": "lower"}),
}  # fmt: skip


def bench_gpu(b):
    """The claims about the GPU; where there is none, each of them says so."""
    absent(b, "gpu-loss", "it takes trainings of 124M weights: ./thirty run 19 gpu")
    if b.device.type != "cuda":
        for name in ("gpu-step", "gpu-memory"):
            absent(b, name, "no CUDA device")
        return
    updates = {way: update(b, way) for way in ("tied", "twice")}  # pragma: no cover - gpu
    run = b.compare(updates, check=1.0, memory=False)  # pragma: no cover - gpu
    sentence, goal, kind = CLAIMS["gpu-step"]  # pragma: no cover - gpu
    b.claim("gpu-step", sentence, goal=goal, measured=run.figures("twice"), **kind)  # pragma: no cover - gpu
    del updates, run  # pragma: no cover - gpu
    held = {way: float(memory(b, way)) for way in ("tied", "twice")}  # pragma: no cover - gpu
    sentence, goal, kind = CLAIMS["gpu-memory"]  # pragma: no cover - gpu
    b.claim("gpu-memory", sentence, goal=goal, **kind,  # pragma: no cover - gpu
            measured=values("twice", [held["twice"]], "tied", [held["tied"]]))  # fmt: skip


def absent(b, name, why):
    sentence, goal, kind = CLAIMS[name]
    b.not_run(name, sentence, goal=goal, why=why, **kind)


def update(b, way, rows=8, T=1024):  # pragma: no cover - gpu
    """An update in bfloat16 under autocast; gives the loss of the first one."""
    objective, first = CausalLM(_ways.build(way, LARGE, 0, b.device)), []
    optimizer = adamw(objective, TrainConfig())
    tokens = torch.randint(50_000, (rows, T + 1), generator=torch.Generator().manual_seed(0)).to(b.device)
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def call():
        with torch.autocast("cuda", torch.bfloat16):
            loss = objective(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        first.append(loss.item() if not first else first[0])
        return first[0]

    return call


def memory(b, way):  # pragma: no cover - gpu
    """Bytes at most in an update of one short row, where next to nothing is activations."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    call = update(b, way, 1, 8)
    call()
    reset_peak(b.device)
    call()
    return peak_memory(b.device) - before
