"""What is measured on a GPU alone: BF16 beside TF32, and FP8 beside compiled BF16, where it matters."""

import torch

from common.benchmark import values
from common.cli.bench import break_even
from common.model import GPT, ModelConfig
from common.profiling import peak_of

from ._lab import Town, fit, model_of, side
from ._step import random_batch, shape_124m, trainers
from .fp8 import native
from .train import PRESETS

SPEED, LOWER = {"unit": "tokens/s", "better": "higher"}, {"better": "lower"}
BILLION = "At the shape of a billion weights, forward and backward in compiled FP8 are at least "
# id: (sentence, goal, unit and direction)
CLAIMS = {
    "gpu-tf32": ("A step of the 124M shape in BF16 is at least 1.5 times as fast as in TF32", (">=", 1.5),
                 SPEED),
    "gpu-autocast": ("A step of the 124M shape is at least as fast as under torch.autocast", (">=", 1.0),
                     SPEED),
    "gpu-memory": ("Such a step takes at most 0.6 of the memory of one in FP32, beyond weights and states",
                   ("<=", 0.6), {"unit": "bytes", **LOWER}),
    "gpu-fp8": (BILLION + "1.15 times as fast as in compiled BF16", (">=", 1.15), SPEED),
    "gpu-torchao": (BILLION + "as fast as torchao's", (">=", 1.0), SPEED),
    "gpu-fp8-loss": ("Trained in FP8, the loss is at most 1 % above BF16's", ("<=", 1.01),
                     {"unit": "nats a byte", **LOWER}),
}  # fmt: skip


def bench_gpu(b):
    """The claims that need a CUDA device; elsewhere each says that it was not run."""
    if b.device.type != "cuda":
        for name in CLAIMS:
            absent(b, name, "needs a CUDA device")
        return
    bench_bf16(b)  # pragma: no cover - gpu
    bench_fp8(b)  # pragma: no cover - gpu
    bench_fp8_loss(b)  # pragma: no cover - gpu


def absent(b, name, why):
    sentence, goal, unit = CLAIMS[name]
    b.not_run(name, sentence, goal=goal, why=why, **unit)


def claim(b, name, measured, **more):  # pragma: no cover - gpu
    sentence, goal, unit = CLAIMS[name]
    b.claim(name, sentence, goal=goal, measured=measured, **unit, **more)


def bench_bf16(b):  # pragma: no cover - gpu
    """The 124M shape, eager; FP32 products in TF32 while they are timed, and exact while memory is."""
    config, (rows, T) = shape_124m(b), b.pick(smoke=(2, 64), quick=(16, 1024), full=(16, 1024))
    sides = trainers(b, config, random_batch(b, config, rows, T), ("fp32", "bf16", "torch.autocast"))
    peaks = {name: peak_of(sides[name], b.device) for name in ("fp32", "bf16")}
    torch.set_float32_matmul_precision("high")  # TF32
    try:
        run = b.compare(sides, check=0.05, memory=False)
    finally:
        torch.set_float32_matmul_precision("highest")
    claim(b, "gpu-tf32", run.figures("bf16", work=rows * T), prediction=2.0,
          settings={"batch": [rows, T], "fp32": "TF32"})  # fmt: skip
    claim(b, "gpu-autocast", run.figures("bf16", "torch.autocast", work=rows * T), prediction=1.0)
    claim(b, "gpu-memory", values("bf16", [peaks["bf16"]], "fp32", [peaks["fp32"]]),
          why="gradients are FP32 in both; the copies of the weights are in it")  # fmt: skip


def passes(b, config, kind, batch):  # pragma: no cover - gpu
    """A call: forward and backward of a compiled model; its loss. `kind`: bf16, fp8 or torchao."""
    torch.manual_seed(0)
    one = side("bf16" if kind == "torchao" else kind, GPT(config).to(b.device), convert=torchaos(kind))
    compiled = torch.compile(one.objective)

    def call():
        loss = compiled(batch)
        loss.backward()
        for p in one.parameters:
            p.grad = None
        return loss.detach()

    return call


def torchaos(kind):  # pragma: no cover - gpu
    """What puts torchao's float8 into the blocks of a model; None for the other kinds."""
    if kind != "torchao":
        return None
    from torchao.float8 import convert_to_float8_training

    return lambda model: convert_to_float8_training(
        model, module_filter_fn=lambda module, name: name.startswith("blocks."))


def bench_fp8(b):  # pragma: no cover - gpu
    """A billion weights, and a sweep over the width: below which FP8 loses."""
    if not native(b.device):
        for name in ("gpu-fp8", "gpu-torchao"):
            absent(b, name, "this GPU has no float8 units")
        return
    def compared(width, layers, kinds, rows=4, T=2048):
        config = ModelConfig(vocab_size=32_000, n_layer=layers, n_head=width // 128, n_kv_head=width // 128,
                             d_model=width, d_ff=4 * width, max_seq_len=T)  # fmt: skip
        batch = random_batch(b, config, rows, T)
        return b.compare({kind: passes(b, config, kind, batch) for kind in kinds}, check=0.1, memory=False)

    width, layers = b.pick(smoke=(256, 2), quick=(2048, 16), full=(2048, 16))
    rows = []
    for size in b.pick(smoke=(256,), quick=(512, 2048), full=(512, 1024, 2048, 4096)):
        value, interval = compared(size, 2, ("bf16", "fp8")).speedup("fp8")
        rows.append({"at": size, "ratio": value, "interval": interval})
    points = [(row["at"], row["ratio"]) for row in rows]
    sweep = {"over": "d_model", "rows": rows, "break_even": break_even(points)}
    there = b.library("torchao")
    run = compared(width, layers, ("bf16", "fp8", "torchao")[: 3 if there else 2])
    claim(b, "gpu-fp8", run.figures("fp8", work=4 * 2048), prediction=1.8, settings={"sweep": sweep},
          why="the prediction is that of the products alone, by their published peaks")  # fmt: skip
    if there:
        claim(b, "gpu-torchao", run.figures("fp8", "torchao", work=4 * 2048))
    else:
        absent(b, "gpu-torchao", "torchao is not installed")


def bench_fp8_loss(b):  # pragma: no cover - gpu
    """The gpu preset of train.py, in BF16 and in FP8."""
    config = PRESETS["smoke" if b.mode == "smoke" else "gpu"]
    town, found = Town(config.characters, config.context, config.batch_size, b.device), {}
    for name in ("bf16", "fp8"):
        one = side(name, model_of(config, b.device))
        fit(one, town, config.steps, config.learning_rate)
        found[name] = [town.judge(one.objective)]
    claim(b, "gpu-fp8-loss", values("fp8", found["fp8"], "bf16", found["bf16"]),
          settings={"steps": config.steps})  # fmt: skip
