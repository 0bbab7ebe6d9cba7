"""Measure the claims: what 4 bits cost by GPTQ and by nearest, bytes, and products of whole numbers."""

import tempfile

import numpy as np
import torch

from common import hub
from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench
from common.cli.paths import models
from common.results import Figure

from . import _decode, _gpu, _lab, gptq, integer
from .calibration import layer_error
from .rtn import dequantize, grid_of, quantize

WORSE = {"unit": "added perplexity", "better": "lower"}
FAST = {"unit": "tok/s", "better": "higher"}
HEADLINE = "In 4 bits with groups of 128, GPTQ adds at most half the perplexity that round to nearest adds"
# id: (sentence, method, bits, group, symmetric, goal): against round to nearest
QUALITY = {
    "gptq-w4": (HEADLINE, "gptq", 4, 128, True, 0.5),
    "gptq-w4-rows": ("The same with one step to a row", "gptq", 4, None, True, 0.5),
    "gptq-w4-zeros": ("The same with groups of 128 and zero points", "gptq", 4, 128, False, 0.5),
    "gptq-w3": ("In 3 bits with groups of 128 it adds at most half", "gptq", 3, 128, True, 0.5),
    "gptq-w2": ("In 2 bits, groups of 64 and zero points, at most half", "gptq", 2, 64, False, 0.5),
    "awq-w4": ("AWQ adds at most 0.8 of it, 4 bits, groups of 128", "awq", 4, 128, True, 0.8),
}  # fmt: skip


def interval(ours, theirs, base, resamples=2000):
    """95 % of the ratio of two mean increases of loss over the same texts, by the percentile bootstrap."""
    ours, theirs = (np.subtract(x, base) for x in (ours, theirs))
    at = np.random.default_rng(0).integers(0, len(base), (resamples, len(base)))
    found = ours[at].mean(1) / theirs[at].mean(1)
    low, high = np.quantile(found, [0.025, 0.975])
    middle = ours.mean() / theirs.mean()
    return min(float(low), middle), max(float(high), middle)


def quality_of(b, sizes):
    """The base model of the course, its calibration set, and the texts to judge by; None: not made yet."""
    folder = models() / "base"
    if not chain.whole(folder):
        return None
    _, model, words = _lab.plain_model(str(folder), b.say)
    batches = _lab.texts(words, sizes[0], sizes[1])
    return model, batches, _lab.texts(words, sizes[2], min(sizes[3], model.config.max_seq_len), _lab.HELD_OUT)


def bench_quality(b):
    """Perplexity after each method, against round to nearest on the same grids, and in 8 bits."""
    made = quality_of(b, b.pick(smoke=(2, 24, 2, 32), quick=(16, 256, 8, 512), full=(64, 256, 64, 512)))
    asked = QUALITY if b.mode != "smoke" else list(QUALITY)[:1]
    if made is None:
        for name, (sentence, *_, goal) in QUALITY.items():
            b.not_run(name, sentence, goal=("<=", goal), headline=name == "gptq-w4", **WORSE,
                      why="no models/base yet: ./thirty run 3")  # fmt: skip
        return
    model, batches, judged = made
    base, seen = _lab.losses(model, judged), {}
    floats = float(np.exp(np.mean(base)))
    for name in asked:
        sentence, method, bits, group, symmetric, goal = QUALITY[name]
        lost = {}
        for side in ("rtn", method):
            key = side, bits, group, symmetric
            if key not in seen:
                seen[key] = _lab.losses(_lab.quantised(model, batches, *key), judged)
            lost[side] = seen[key]
        worse = {side: float(np.exp(np.mean(x))) - floats for side, x in lost.items()}
        b.say(f"{name}: nearest {worse['rtn']:+.4f}, {method} {worse[method]:+.4f}")
        ratio, (low, high) = worse[method] / worse["rtn"], interval(lost[method], lost["rtn"], base)
        names = {"rtn": "round to nearest", method: method}
        b.claim(name, sentence, goal=("<=", goal), headline=name == "gptq-w4", **WORSE,
                measured={"baseline": Figure(names["rtn"], worse["rtn"]), "ratio": ratio,
                          "ours": Figure(method, worse[method]), "samples": {names[k]: lost[k] for k in lost},
                          "interval": (min(low, ratio), max(high, ratio))},
                why="the interval is over the texts judged, for one calibration set; samples are losses",
                settings={"perplexity of the floats": floats, "bits": bits, "group": group or "a row",
                          "zero points": not symmetric, "calibration": len(batches), "judged": len(judged)},
                )  # fmt: skip
    eight = _lab.quantised(model, batches, "rtn", 8, None, True, 8)
    worse = float(np.exp(np.mean(_lab.losses(eight, judged))))
    b.claim("w8", "In 8 bits, tables too, perplexity rises by at most 0.5 %, rounded to nearest",
            unit="perplexity", better="lower", goal=("<=", 1.005),
            measured=values("8 bits", [worse], "floats", [floats]))  # fmt: skip


def bench_reference(b):
    """The error of layers: against the equation of the paper, and never above round to nearest's."""
    count, width = b.pick(smoke=(2, 32), quick=(6, 128), full=(12, 256))
    mine, naive, nearest = [], [], []
    for seed in range(count):
        draw = torch.Generator().manual_seed(seed)
        mix = torch.randn(width, width, generator=draw) * torch.rand(width, generator=draw)
        x, w = torch.randn(4 * width, width, generator=draw) @ mix, torch.randn(64, width, generator=draw)
        H, grid = x.T @ x / len(x), grid_of(w, 4)
        codes = {"ours": gptq.gptq(w, H, 4, keep_better=False)[0], "nearest": quantize(w, grid, 4),
                 "naive": gptq.column_by_column(w, H, grid, 4)}  # fmt: skip
        errors = {name: layer_error(w.double(), dequantize(c, grid), H).sum().item()
                  for name, c in codes.items()}  # fmt: skip
        for found, name in ((mine, "ours"), (naive, "naive"), (nearest, "nearest")):
            found.append(errors[name])
    b.claim("reference", "The layer error of our GPTQ is within 1 % of the paper's equation in float64",
            unit="layer error", better="lower", goal=("<=", 1.01),
            measured=values("GPTQ", mine, "column by column, float64", naive))  # fmt: skip
    b.claim("layers", "On correlated inputs GPTQ's layer error is at most 0.7 of round to nearest's",
            unit="layer error", better="lower", goal=("<=", 0.7),
            measured=values("GPTQ", mine, "round to nearest", nearest))  # fmt: skip


def bench_size(b):
    """Files as they lie on the disk, beside the same weights in float16."""
    sizes = {"size-124m": ("the 124M shape", _decode.model_of(b))}
    if (models() / "base").is_dir() and b.mode != "smoke":
        sizes["size"] = "the base model", hub.load(models() / "base", dtype=torch.float32)
    else:
        b.not_run("size", "4 bits with groups of 128 make the file of the base model 3.8 times smaller",
                  unit="bytes", better="lower", goal=("<=", 1 / 3.8), why="no models/base yet")  # fmt: skip
    for name, (said, model) in sizes.items():
        group = 128 if model.config.d_model % 128 == 0 else None
        for tables, end in ((4, ""), (8, "-tables8")):
            bits = 4 + (16 / group if group else 0)
            how = "all of it in 4 bits" if tables == 4 else "embedding and head in 8 bits"
            with tempfile.TemporaryDirectory() as folder:
                made = _lab.quantised(model, [], "rtn", 4, group, True, tables)
                hub.save(made, folder)
                ours = _lab.file_bytes(folder)
                halves = sum(t.numel() * 2 for t in hub.own(model).values())
            goal = ("<=", 1 / 3.8) if tables == 4 else ("<=", 1 / 2.5)
            b.claim(name + end, f"The file of {said}, {how}, groups of 128: at least "
                    f"{1 / goal[1]:.1f} times smaller than float16", unit="bytes", better="lower", goal=goal,
                    measured=values("codes", [ours], "float16", [halves]), bound=0.25,
                    prediction=bits / 16 if tables == 4 else None,
                    why="the prediction counts codes and scales, no norms and no names")  # fmt: skip


def bench_exact(b):
    """Products of whole numbers against 64 bits, with the largest codes among them: must hold."""
    wrong = 0
    for seed, (rows, out, into) in enumerate(((1, 48, 4096), (7, 33, 1031), (64, 64, 64), (17, 129, 770))):
        draw = torch.Generator().manual_seed(seed)
        a, c = (torch.randint(-128, 128, (n, into), generator=draw).to(torch.int8) for n in (rows, out))
        a[0], c[0] = -128, -128
        wrong += (integer.product(a, c).long() != integer.plain_product(a, c)).sum().item()
    b.claim("exact", "Products of 8-bit numbers are those of 64-bit integers, all of them",
            unit="wrong numbers", better="lower", goal=("<=", 0.0),
            measured=values("int8", [float(wrong)]))  # fmt: skip


def bench_decode(b):
    """A token after the other, batch 1, at the 124M shape, the head included."""
    if b.device.type != "cpu":
        return
    model, new = _decode.model_of(b), b.pick(smoke=2, quick=8, full=32)
    group = 128 if model.config.d_model % 128 == 0 else 64
    eight, four = _decode.coded(model, 8, None), _decode.coded(model, 4, group)
    sides = {name: _decode.decoding(m, new) for name, m in
             (("float32", model), ("8 bits", eight), ("4 bits", four))}  # fmt: skip
    run = b.compare(sides, check=_decode.near(0.5), memory=False,
                    budget=b.pick(smoke=0.5, quick=20, full=180))  # fmt: skip
    fewer = _decode.bytes_read(model) / sum(m.layer.packed.nbytes + m.layer.steps.nbytes
                                            for m in eight.modules() if isinstance(m, integer.FastLinear))
    chosen = {f"{rows} x {out} x {into}": min(times, key=times.get)
              for (rows, out, into, _), times in eight.head.chooser.times.items()}  # fmt: skip
    b.claim("decode", "In 8 bits the 124M shape decodes at least 2.5 times as fast as in float32, batch 1",
            goal=(">=", 2.5), measured=run.figures("8 bits", work=new), bound=fewer, **FAST,
            why="the bound is that of the bytes; norms, attention and Python cost what they did",
            settings={"prompt": _decode.PROMPT, "new": new, **chosen})  # fmt: skip
    b.claim("decode-int4", "In 4 bits it decodes at least as fast as in 8", goal=(">=", 1.0),
            measured=run.figures("4 bits", "8 bits", work=new), bound=2 * 4 / 4.125, **FAST)  # fmt: skip


def bench_products(b):
    """One matrix of each kind: ours beside the best of PyTorch's engines, and bitsandbytes."""
    if b.device.type != "cpu":
        return
    shapes = b.pick(smoke=((1, 64, 64),), quick=_decode.PRODUCTS, full=_decode.PRODUCTS)
    for shape in shapes:
        calls, layer = _decode.engines(b, *shape)
        run = b.compare(calls, check=_decode.near(0.1), memory=False,
                        budget=b.pick(smoke=0.2, quick=3, full=30))  # fmt: skip
        rows, out, into = shape
        best = min((run.sides[name].median, name) for name in calls if name in integer.engines())[1]
        kind = {"unit": "products/s", "better": "higher", "goal": (">=", 1.0)}
        said = f"{rows} row{'s' if rows > 1 else ''} through {out:,} x {into:,} weights of 8 bits"
        times = layer.chooser.times[rows, out, into, 8]
        sentence = f"{said}: at least as fast as the best engine of PyTorch"
        b.claim(f"product-{rows}x{out}x{into}", sentence, measured=run.figures("ours", best, work=1),
                settings={"chosen": min(times, key=times.get)}, **kind)  # fmt: skip
        if "bitsandbytes" in calls and shape == shapes[-1]:
            b.claim("bitsandbytes", f"{said}: at least as fast as bitsandbytes", **kind,
                    measured=run.figures("ours", "bitsandbytes", work=1))  # fmt: skip


def main(b):
    bench_quality(b)
    bench_reference(b)
    bench_size(b)
    bench_exact(b)
    bench_decode(b)
    bench_products(b)
    _gpu.bench_gpu(b)


def profiled(b):
    model = _decode.model_of(b)
    return _decode.decoding(_decode.coded(model, 8, None), 8)


if __name__ == "__main__":
    bench(main, profiled)
