"""Builds in a process of its own and writes the seconds it took: `_build cpp OUT` or `_build inductor OUT`.

The caller gives it empty caches. Only the work is timed, not Python's start.
"""

import sys
import time
from pathlib import Path

import torch

from common.model import GPT, ModelConfig
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for

from . import cpp_ops


def inductor():
    """A step of decoding of a model of the base's size, compiled; returns when its first token is there."""
    model = GPT(ModelConfig(n_head=8, n_kv_head=4, d_ff=640)).eval()
    caches, step = caches_for(model, StaticCache, 1, 128), torch.compile(model, fullgraph=True, dynamic=False)
    with torch.no_grad():
        step(torch.zeros(1, 1, dtype=torch.long), positions=torch.tensor([[5]]), caches=caches)


if __name__ == "__main__":
    what, out = sys.argv[1:]
    started = time.perf_counter()
    {"cpp": cpp_ops.kernels, "inductor": inductor}[what]()
    Path(out).write_text(f"{time.perf_counter() - started}", encoding="utf-8")
