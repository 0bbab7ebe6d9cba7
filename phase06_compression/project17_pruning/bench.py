"""Measure the claims: what zeros cost, what room they take, what they do not speed up, what smaller does."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from common import hub
from common.benchmark import values
from common.cli.bench import bench

from . import _gpu, _lab, _quality, _speed, magnitude
from .sparsegpt import column_by_column, solve

FAST = {"better": "higher"}
PLAIN = "zeros in a plain matrix"  # the first of _speed.forms, and so the baseline


def bench_reference(b):
    """SparseGPT's walk beside the method as it reads, every inverse made anew, in float64."""
    from phase05_quantization.project14_ptq.gptq import inverse_factor

    out, width = b.pick(smoke=(8, 32), quick=(64, 128), full=(128, 256))
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4 * width, width, generator=draw) @ torch.randn(width, width, generator=draw)
    w, H = torch.randn(out, width, generator=draw), x.T @ x / len(x)
    ours = solve(w, inverse_factor(H), 0.5).double()
    naive = column_by_column(w, H, ours != 0)
    apart = ((ours - naive).norm() / naive.norm()).item()
    b.claim("reference", "SparseGPT's walk by one factorisation is within 0.1 % of the method as it reads, "
            "in float64", unit="relative difference", better="lower", goal=("<=", 1e-3), prediction=0.0,
            measured=values("solve", [apart]), settings={"outputs": out, "inputs": width})  # fmt: skip


def bench_size(b):
    """Files on the disk, 16 bits, half of the blocks' weights 0."""
    model = _speed.model_of(b.pick(smoke=_speed.SMALL, quick=_speed.FULL, full=_speed.FULL)).bfloat16()
    blocks = sum(matrix.weight.numel() for matrix in magnitude.matrices(model).values())
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        hub.save(model, Path(folder) / "whole")
        magnitude.apply(model, 0.5)
        hub.save(model, Path(folder) / "zeros")
        made = _lab.save(model, Path(folder) / "bits")
        whole, zeros, bits = (_lab.file_bytes(Path(folder) / name) for name in ("whole", "zeros", "bits"))
        tokens = torch.arange(8)[None]
        differ = int((_lab.load(Path(folder) / "bits")(tokens) != model(tokens)).sum())
    kept = sum(t.nbytes for name, t in hub.own(made).items() if name.endswith((".packed", ".values")))
    n, rest = 2 * blocks, whole - 2 * blocks
    size, settings = {"unit": "bytes", "better": "lower"}, {"weights": whole // 2, "of the blocks": blocks}
    b.claim("size", "Half of them 0, the blocks' matrices by bitmask take at most 0.58 of their 16 bits",
            goal=("<=", 0.58), bound=0.5, prediction=0.5625, settings=settings, **size,
            measured=values("bitmask", [kept], "16 bits", [n]))  # fmt: skip
    b.claim("size-file", "The file of the whole model, embedding and all, is at most 1 % above the formula",
            goal=("<=", 1.01 * (0.5625 * n + rest) / whole), prediction=(0.5625 * n + rest) / whole,
            measured=values("bitmask", [bits], "16 bits", [whole]), settings=settings, **size)  # fmt: skip
    b.claim("size-zeros", "Zeros without a bitmask make no smaller file: the same bytes, to 1 %",
            goal=(">=", 0.99), prediction=1.0, measured=values("zeros", [zeros], "16 bits", [whole]),
            settings=settings, **size)  # fmt: skip
    b.claim("exact", "A folder by bitmask gives the logits of the model that was saved, bit for bit: none "
            "differs", unit="logits", better="lower", goal=("==", 0), prediction=0.0,
            measured=values("differ", [float(differ)]))  # fmt: skip


def bench_zeros(b):
    """What zeros do not speed up: the same kernel, and kernels that skip them."""
    width, rows = b.pick(smoke=(64, 4), quick=(1024, 16), full=(2048, 16))
    x, product = torch.randn(rows, width), {"unit": "products/s", **FAST}
    how = {"memory": False, "budget": b.pick(smoke=0.2, quick=3, full=15)}
    whole, half = torch.randn(width, width) / width**0.5, _speed.matrix_of(width, 0.5)
    want = (x.double() @ half.double().T).float()
    shares = b.pick(smoke=(0.5,), quick=(0.5, 0.9, 0.98), full=(0.5, 0.7, 0.8, 0.9, 0.95, 0.98))
    with torch.inference_mode():
        same = b.compare({"whole": lambda: F.linear(x, whole), PLAIN: lambda: F.linear(x, half)}, **how,
                         check=lambda _, zeros: bool((zeros - want).abs().max() < 1e-3))  # fmt: skip
        run = b.compare(_speed.forms(half, x), check=1e-3, **how)
        sweep = b.sweep("share of zeros", shares, lambda share: b.compare(
            _speed.forms(_speed.matrix_of(width, share), x), check=1e-3, **how), "sparse rows (CSR)")
    where = {"rows": rows, "width": width}
    b.claim("zeros", "Half of a matrix 0, the same kernel is not faster: at most 1.05 times", **product,
            goal=("<=", 1.05), prediction=1.0, settings=where, measured=same.figures(PLAIN, work=1),
            why="the two sides multiply other numbers, in as many operations")  # fmt: skip
    b.claim("zeros-csr", "Half of a matrix 0, torch's sparse kernel is slower than the whole matrix: at most "
            "0.9 times as fast", goal=("<=", 0.9), settings={**where, "sweep": sweep}, **product,
            measured=run.figures("sparse rows (CSR)", work=1))  # fmt: skip
    b.claim("zeros-bitmask", "A bitmask that is made whole at each use saves room and costs time: at most "
            "0.9 times as fast", goal=("<=", 0.9), settings=where, **product,
            measured=run.figures("bitmask, made whole", work=1))  # fmt: skip


def bench_structured(b):
    """A model without 30 % of its weights, beside the one in which they are silent: the same answers."""
    sizes = b.pick(smoke=_speed.SMALL, quick=_speed.FULL, full=_speed.FULL)
    shapes = {"": sizes} | ({} if b.mode == "smoke" else {"-base": _speed.BASE})
    new, length = b.pick(smoke=(2, 16), quick=(4, 256), full=(16, 256))
    for tail, shape in shapes.items():
        model = _speed.model_of(shape).to(b.device)
        small = _speed.smaller_model(model, 0.3)
        whole, counts = _speed.silent(model, small), [_speed.weights_read(m) for m in (model, small)]
        said = "of the shape of our base model" if tail else "at GPT-2's 124M shape with 10,000 tokens"
        bounds = {"decode": counts[0] / counts[1], "prefill": blocks_of(model) / blocks_of(small)}
        calls = {"decode": lambda m: _speed.decoding(m, new), "prefill": lambda m: _speed.reading(m, length)}
        for name, call in calls.items():
            run = b.compare({"whole": call(whole), "pruned": call(small)}, check=1e-3, memory=False,
                            budget=b.pick(smoke=0.3, quick=10, full=60))  # fmt: skip
            work = new if name == "decode" else length
            doing = "writes" if name == "decode" else "reads a prompt"
            b.claim(f"{name}{tail}", f"Without 30 % of its weights a model {said} {doing} at least 1.25 "
                    "times as fast", unit="tok/s", goal=(">=", 1.25), bound=bounds[name], **FAST,
                    measured=run.figures("pruned", "whole", work=work),
                    settings={"weights read": counts[0], "pruned": counts[1],
                              "tokens": work})  # fmt: skip


def blocks_of(model) -> int:
    return sum(p.numel() for p in model.blocks.parameters())


def main(b):
    _quality.bench_quality(b)
    _quality.bench_recovery(b)
    bench_reference(b)
    bench_size(b)
    bench_zeros(b)
    bench_structured(b)
    _gpu.bench_gpu(b)


def profiled(b):
    model = _speed.model_of(b.pick(smoke=_speed.SMALL, quick=_speed.FULL, full=_speed.FULL)).to(b.device)
    return _speed.decoding(_speed.smaller_model(model, 0.3), 8)


if __name__ == "__main__":
    bench(main, profiled)
