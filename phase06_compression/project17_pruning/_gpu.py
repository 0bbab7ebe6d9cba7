"""What is measured on a GPU alone: two of four through sparse tensor cores, and a model that is smaller."""

import torch
import torch.nn.functional as F

from . import _speed
from .magnitude import n_of_m

ROWS = {"gpu-24": 4096, "gpu-24-1024": 1024}
SIZE = 8192
CLAIMS = {
    "gpu-24": ("Two of four left in 8,192 x 8,192 weights, bfloat16, 4,096 rows: at least 1.3 times as fast",
               1.3, "FLOP/s"),
    "gpu-24-1024": ("The same with 1,024 rows", 1.3, "FLOP/s"),
    "gpu-decode": ("Without 30 % of its weights a model of 1.3 billion writes at least 1.25 times as fast",
                   1.25, "tok/s"),
    "gpu-prefill": ("The same model reads a prompt of 2,048 tokens at least 1.25 times as fast", 1.25,
                    "tok/s"),
}  # fmt: skip
SHAPE = {"vocab_size": 32_000, "n_layer": 24, "n_head": 16, "n_kv_head": 16, "d_model": 2048, "d_ff": 5632}
FAST = {"better": "higher"}


def bench_gpu(b):
    """The claims about the GPU; where there is none, each of them says so."""
    if b.device.type != "cuda":
        for name, (sentence, goal, unit) in CLAIMS.items():
            b.not_run(name, sentence, unit=unit, goal=(">=", goal), why="no CUDA device", **FAST)
        return
    bench_two_of_four(b)  # pragma: no cover - gpu
    bench_smaller(b)  # pragma: no cover - gpu


def bench_two_of_four(b):  # pragma: no cover - gpu
    """torch's semi-structured kernels, against cuBLAS on the same matrix with its zeros."""
    from torch.sparse import to_sparse_semi_structured

    n = b.pick(smoke=512, quick=SIZE, full=SIZE)
    w = torch.randn(n, n, device=b.device, dtype=torch.bfloat16) / n**0.5
    w = w * n_of_m(w.abs())
    sparse = to_sparse_semi_structured(w)
    for name, rows in ROWS.items():
        x = torch.randn(rows, n, device=b.device, dtype=torch.bfloat16)
        with torch.inference_mode():
            run = b.compare({"zeros": lambda x=x: F.linear(x, w), "2 of 4": lambda x=x: F.linear(x, sparse)},
                            check=lambda a, c: bool((a - c).abs().max() <= 0.05 * a.abs().max()))
        sentence, goal, unit = CLAIMS[name]
        b.claim(name, sentence, unit=unit, goal=(">=", goal), bound=2.0, **FAST,
                measured=run.figures("2 of 4", "zeros", work=2 * rows * n * n))  # fmt: skip


def bench_smaller(b):  # pragma: no cover - gpu
    sizes = b.pick(smoke=_speed.SMALL, quick=SHAPE, full=SHAPE)
    model = _speed.model_of(sizes, context=4096).to(b.device, torch.bfloat16)
    small = _speed.smaller_model(model, 0.3)
    whole, counts = _speed.silent(model, small), [_speed.weights_read(m) for m in (model, small)]
    new, length = b.pick(smoke=(2, 16), quick=(32, 2048), full=(64, 2048))
    calls = {"gpu-decode": (lambda m: _speed.decoding(m, new), new),
             "gpu-prefill": (lambda m: _speed.reading(m, length), length)}  # fmt: skip
    for name, (call, work) in calls.items():
        run = b.compare({"whole": call(whole), "pruned": call(small)},
                        check=lambda a, c: bool((a - c).abs().max() <= 0.1 * a.abs().max()))
        sentence, goal, unit = CLAIMS[name]
        b.claim(name, sentence, unit=unit, goal=(">=", goal), bound=counts[0] / counts[1], **FAST,
                measured=run.figures("pruned", "whole", work=work))  # fmt: skip
