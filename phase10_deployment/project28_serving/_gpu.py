"""What is measured on a GPU alone: a larger model and many clients, over HTTP beside the engine alone."""

import tempfile
from pathlib import Path

import torch

from common import hub, tokenizer
from common.model import GPT, ModelConfig

from . import _load, _server
from ._ladder import Offline

SENTENCE = "On a GPU, the shape of a 0.6B model and 256 clients give at least 0.9 of the engine alone"
SHAPE = {"n_layer": 28, "n_head": 16, "n_kv_head": 8, "head_dim": 128, "d_model": 1024, "d_ff": 3072,
         "max_seq_len": 4096}  # fmt: skip
SIZES = {"max_batch": 256, "max_step_tokens": 8192, "tokens": 131072}
CLAIM = {"unit": "tok/s", "better": "higher", "goal": (">=", 0.9)}


def bench_gpu(b, folder, texts_over, alike):
    """The claim; where there is no GPU, it says so."""
    if b.device.type == "cuda":  # pragma: no cover - gpu
        return measure(b, folder, texts_over, alike)
    b.not_run("gpu", SENTENCE, why="no CUDA device", **CLAIM)


def measure(b, folder, texts_over, alike):  # pragma: no cover - gpu
    """Random weights in bfloat16, with the tokenizer of the model at hand."""
    words, count = tokenizer.load(folder), b.pick(smoke=8, quick=256, full=1024)
    with tempfile.TemporaryDirectory() as place:
        large = Path(place) / "large"
        model = GPT(ModelConfig(vocab_size=words.vocab_size, **SHAPE))
        hub.save(model.to(torch.bfloat16), large, tokenizer=words)
        some = _load.bodies(large, count, median=64, longest=b.pick(smoke=8, quick=128, full=256))
        arguments = [f"--{name}={size}" for name, size in SIZES.items()]
        arguments += ["--places", 4096, "--no-prefix_cache", "--device", "cuda"]
        with _server.replicas(1, "--model", large, *arguments) as (server,):
            offline = Offline(large, device="cuda", prefix_cache=False, **SIZES)
            run = b.compare({"engine alone": lambda: offline.run(some),
                             "HTTP, streamed": lambda: texts_over(server.url, some, 256)}, check=alike,
                            memory=False)  # fmt: skip
    tokens = sum(one["max_tokens"] for one in some)
    b.claim("gpu", SENTENCE, measured=run.figures("HTTP, streamed", work=tokens),
            settings={"clients": 256, "requests": count, "tokens": tokens}, **CLAIM)  # fmt: skip
