"""Measure the claims: a step in BF16 beside FP32 and autocast, FP16, memory by kind, inference, loss."""

import functools
from dataclasses import replace

import torch

from common.benchmark import values
from common.cli.bench import bench, break_even
from common.device import gemm_ceiling
from common.model import Cache

from . import _gpu
from ._lab import Town, fit, memory, model_of, side
from ._step import flops_of, new_model, random_batch, shape_124m, trainers
from .mixed_precision import Policy, for_inference
from .train import PRESETS

SPEED = {"unit": "tokens/s", "better": "higher"}
NATS = {"unit": "nats a byte", "better": "lower"}


def units():
    """What this CPU multiplies by itself, as torch sees it."""
    fp16 = torch.cpu._is_amx_fp16_supported() or torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return {"AMX": torch.cpu._is_amx_tile_supported(), "FP16": fp16,
            "AVX512-BF16": torch.cpu._is_avx512_bf16_supported()}  # fmt: skip


def described(b):
    """What decides such a measurement: the units, and FLOP/s of a square product in each type."""
    n, seconds = b.pick(smoke=64, quick=512, full=1024), b.pick(smoke=0.01, quick=0.3, full=2.0)
    rates = {name: gemm_ceiling(b.device, dtype, n, seconds) for name, dtype in (
        ("FP32", torch.float32), ("BF16", torch.bfloat16), ("FP16", torch.float16))}  # fmt: skip
    return {"units": units() if b.device.type == "cpu" else {}, "square products, FLOP/s": rates}


def without_amx(seen):
    """What is to be said where the goal of the step was not made for this machine."""
    lacks = seen["units"] and not seen["units"]["AMX"]
    return "; the goal is one for a CPU with AMX, and this one has none" if lacks else ""


def bench_step(b, seen):
    """One update at the 124M shape, and how wide a model must be for BF16 to gain."""
    config, (rows, T) = shape_124m(b), b.pick(smoke=(2, 16), quick=(4, 256), full=(4, 256))
    batch, flops = random_batch(b, config, rows, T), flops_of(new_model(b, config), config, rows, T)
    sides = trainers(b, config, batch, ("fp32", "bf16", "torch.autocast"))
    run = b.compare(sides, check=0.05, memory=False, counts={name: {"FLOPs": flops} for name in sides},
                    budget=b.pick(smoke=0.5, quick=8, full=420))  # fmt: skip
    del sides
    plain = run.sides["fp32"].median
    products = min(flops / b.ceilings.fp32, plain)
    sweep = width_sweep(b)
    b.claim("step", "A training step of the 124M shape, 4 x 256 tokens, is at least 2.0 times as fast in "
            "BF16 as in FP32", headline=True, goal=(">=", 2.0), **SPEED,
            measured=run.figures("bf16", work=rows * T), bound=plain * b.ceilings.bf16 / flops,
            prediction=plain / (plain - products + flops / b.ceilings.bf16),
            settings={**seen, "shape": "124M", "batch": [rows, T], "sweep": sweep},
            why="the bound is nothing but products, at the best rate seen; the prediction leaves all else "
                "as slow as in FP32" + without_amx(seen))  # fmt: skip
    b.claim("autocast", "The same step is at least as fast as under torch.autocast", goal=(">=", 1.0),
            **SPEED, measured=run.figures("bf16", "torch.autocast", work=rows * T), prediction=1.0,
            settings={"batch": [rows, T]},
            why="the same products; what comes out of a norm is cast once, and not by each that reads it")


def width_sweep(b):
    """Two blocks of growing width, BF16 beside FP32."""
    rows = []
    for width in b.pick(smoke=(16, 32), quick=(64, 256), full=(32, 64, 128, 256, 512, 1024)):
        config = shape_124m(b, vocab_size=256, n_layer=2, n_head=4, n_kv_head=4, d_model=width,
                            d_ff=8 * width // 3)
        batch = random_batch(b, config, 4, b.pick(smoke=16, quick=256, full=256))
        run = b.compare(trainers(b, config, batch, ("fp32", "bf16")), check=0.05, memory=False,
                        budget=b.pick(smoke=0.2, quick=4, full=15))  # fmt: skip
        value, interval = run.speedup("bf16")
        rows.append({"at": width, "ratio": value, "interval": interval})
    return {"over": "d_model", "rows": rows, "break_even": break_even([(r["at"], r["ratio"]) for r in rows])}


def bench_fp16(b, seen):
    """A smaller step, because it takes long."""
    config = shape_124m(b, **b.pick(smoke={}, quick={"n_layer": 2, "vocab_size": 1000}, full={
        "n_layer": 2, "vocab_size": 1000}))  # fmt: skip
    rows, T = b.pick(smoke=(2, 16), quick=(2, 64), full=(2, 128))
    sides = trainers(b, config, random_batch(b, config, rows, T), ("fp32", "fp16"))
    run = b.compare(sides, check=0.05, memory=False, budget=b.pick(smoke=0.5, quick=6, full=60))
    has = seen["units"].get("FP16")
    why = ("this processor has units for FP16, and torch uses them" if has else
           "no unit here multiplies FP16: each number is made FP32 first, and no tuned product does that")
    b.claim("fp16", "On a CPU a step in FP16 is slower than in FP32", goal=("<", 1.0), **SPEED, why=why,
            measured=run.figures("fp16", work=rows * T),
            settings={**seen, "shape": "two blocks of the 124M shape", "batch": [rows, T]})  # fmt: skip


def bench_memory(b):
    """Bytes of the 124M shape by what they are for; and of its weights alone, for inference."""
    config, (rows, T) = shape_124m(b), b.pick(smoke=(2, 16), quick=(2, 256), full=(4, 256))
    batch, split = random_batch(b, config, rows, T), {}
    for name in ("fp32", "bf16", "bf16-masters"):
        one = side(name, new_model(b, config))
        one.update(batch)
        split[name] = memory(one, batch)
        b.say(f"  {name}: " + ", ".join(f"{part} {n / 1e6:.0f} MB" for part, n in split[name].items()))
    lasting = {name: sum(parts[p] for p in ("weights", "gradients", "states"))
               for name, parts in split.items()}  # fmt: skip
    settings, bytes_ = {"batch": [rows, T], "bytes": split}, {"unit": "bytes", "better": "lower"}
    b.claim("activations", "What is kept of the activations for the way back takes at most 0.7 of FP32's",
            goal=("<=", 0.7), settings=settings, **bytes_, prediction=halved(config),
            measured=values("bf16", [split["bf16"]["activations"]], "fp32", [split["fp32"]["activations"]]),
            why="what products read halves; the stream between the blocks, and the loss, stay FP32")
    b.claim("weights", "Weights, gradients and AdamW's states take as much as in FP32", goal=("==", 1.0),
            measured=values("bf16", [lasting["bf16"]], "fp32", [lasting["fp32"]]), **bytes_,
            settings=settings, prediction=1.0,
            why="the FP32 weights are the master copy: 16 bytes a weight either way")  # fmt: skip
    model = new_model(b, config)
    plain = sum(p.nbytes for p in model.parameters())
    low = sum(p.nbytes for p in for_inference(model, Policy()).parameters())
    b.claim("inference-weights", "For inference the weights take half", goal=("<=", 0.5), **bytes_,
            measured=values("bf16", [low], "fp32", [plain]), prediction=0.5)  # fmt: skip


def halved(config):
    """What share of the activations' bytes is left, by counting what each operation keeps for one token."""
    C, A, F = config.d_model, config.n_head * config.head_dim, config.d_ff
    stream = 2 * C  # what the two norms read: FP32 in both
    products = 2 * C + 2 * A + 2 * config.n_kv_head * config.head_dim + 4 * F  # two norms, q k v y, four F
    loss = config.vocab_size / config.n_layer
    return (4 * (stream + loss) + 2 * products) / (4 * (stream + loss) + 4 * products)


def alike(want, got):
    """Logits as near as BF16 can be."""
    return bool((want - got).float().norm() < 0.05 * want.float().norm())


@torch.no_grad()
def bench_inference(b):
    """A prompt, and one token after it, with weights in BF16."""
    config, (rows, T) = shape_124m(b), b.pick(smoke=(2, 16), quick=(4, 256), full=(4, 256))
    tokens = random_batch(b, config, rows, T)[0]
    models = {"fp32": new_model(b, config).eval(),
              "bf16": for_inference(new_model(b, config).eval(), Policy())}  # fmt: skip
    caches = {name: [Cache() for _ in model.blocks] for name, model in models.items()}
    for name, model in models.items():
        model.hidden(tokens[:1], caches=caches[name])

    @torch.no_grad()
    def whole(name):
        return models[name](tokens)

    @torch.no_grad()
    def step(name):
        for cache in caches[name]:
            cache.length = T
        return models[name](tokens[:1, :1], caches=caches[name])

    weights = sum(p.nbytes for p in models["fp32"].parameters())
    for name, call, n, goal, sentence, prediction, why in (
        ("prefill", whole, rows * T, 1.5, "Reading 4 x 256 tokens is at least 1.5 times as fast",
         b.ceilings.bf16 / b.ceilings.fp32, "the prediction is the ratio of this machine's products"),
        ("decode", step, 1, 1.0, "Writing one token at a time is no slower", 2.0,
         "half the bytes could be read in half the time, but a product with one row is not tuned for BF16")):
        sides = {kind: functools.partial(call, kind) for kind in models}
        run = b.compare(sides, check=alike, memory=False, budget=b.pick(smoke=0.5, quick=4, full=60))
        fewest = weights / 2 / b.ceilings.read if n == 1 else None
        b.claim(name, f"{sentence} with weights in BF16", goal=(">=", goal), **SPEED, prediction=prediction,
                measured=run.figures("bf16", work=n), why=why,
                bound=run.sides["fp32"].median / fewest if fewest else None)  # fmt: skip


class Losses:
    """Trainings of the cpu preset, `rows` rows to an update, judged on unseen text; a seed is another start.

    They stand on the same batches. `losses(name, seeds, steps)` -> one loss for each seed.
    """

    def __init__(self, b, rows=None):
        preset = PRESETS["smoke" if b.mode == "smoke" else "cpu"]
        self.config = replace(preset, steps=b.pick(smoke=4, quick=20, full=preset.steps),
                              batch_size=rows or preset.batch_size)  # fmt: skip
        self.b, self.seeds, config = b, b.pick(smoke=1, quick=1, full=3), self.config
        self.town = Town(config.characters, config.context, config.batch_size, b.device)

    def settings(self, steps):
        return {"updates": steps, "tokens": steps * self.config.batch_size * self.config.context}

    def __call__(self, name, seeds, steps):
        found = []
        for seed in range(seeds):
            one = side(name, model_of(replace(self.config, seed=seed), self.b.device))
            fit(one, self.town, steps, self.config.learning_rate)
            found.append(self.town.judge(one.objective))
        self.b.say(f"  {name}, {steps} updates: {', '.join(f'{loss:.4f}' for loss in found)} nats a byte")
        return found

    def claim(self, plain, name, what, why="one start and the same batches for both"):
        """That `name` ends at most 0.5 % above FP32, whose losses `plain` are."""
        steps = self.config.steps
        self.b.claim(f"loss-{name}", f"Trained in {what}, the loss is at most 0.5 % above FP32's", **NATS,
                     goal=("<=", 1.005), measured=values(name, self(name, self.seeds, steps), "fp32", plain),
                     prediction=1.0, settings=self.settings(steps), why=why)  # fmt: skip


def bench_loss(b):
    losses = Losses(b)
    plain = losses("fp32", losses.seeds, losses.config.steps)
    losses.claim(plain, "bf16", "BF16")
    losses.claim(plain, "bf16-masters", "BF16 with master weights")


def bench_loss_low(b):
    """FP16 in updates of a quarter: no unit of most CPUs multiplies it. FP8 for longer, with one start."""
    losses = Losses(b, rows=4)
    plain = losses("fp32", losses.seeds, losses.config.steps)
    losses.claim(plain, "fp16", "FP16 with its scaler",
                 "as above, with 4 rows to an update: a CPU without units for FP16 takes a second for each")
    losses, longer = Losses(b), b.pick(smoke=4, quick=20, full=480)
    pair = [losses(name, 1, longer) for name in ("fp8", "bf16")]
    b.claim("loss-fp8", "Trained in FP8 for a million tokens, the loss is at most 1 % above BF16's", **NATS,
            goal=("<=", 1.01), measured=values("fp8", pair[0], "bf16", pair[1]), prediction=1.0,
            settings=losses.settings(longer), why="the longest run that a laptop has time for; one seed")


def main(b):
    seen = described(b)
    b.say(f"this machine: {seen}")
    bench_step(b, seen)
    bench_fp16(b, seen)
    bench_memory(b)
    bench_inference(b)
    bench_loss(b)
    bench_loss_low(b)
    _gpu.bench_gpu(b)


def profiled(b):
    config = shape_124m(b)
    batch = random_batch(b, config, 4, b.pick(smoke=16, quick=256, full=256))
    return trainers(b, config, batch, ("bf16",))["bf16"]


if __name__ == "__main__":
    bench(main, profiled)
