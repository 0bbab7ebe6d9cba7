"""What is measured on a GPU alone: the W4A16 kernel beside cuBLAS, and GPTQ beside torchao and at 7B."""

import time

import torch
import torch.nn.functional as F

from common.benchmark import values

from . import gptq
from .calibration import layer_error
from .rtn import QuantLinear, dequantize

SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336))
FAST = {"unit": "FLOP/s", "better": "higher"}
CLAIMS = {
    "gpu-decode": ("One row through 4,096 x 14,336 weights: W4A16 is at least 2.5 times as fast as cuBLAS in "
                   "bfloat16", (">=", 2.5), FAST),
    "gpu-sixteen": ("Sixteen rows through such weights: at least 2.5 times as fast", (">=", 2.5), FAST),
    "gpu-many": ("512 rows through such weights: at least 0.8 times as fast", (">=", 0.8), FAST),
    "gpu-int4pack": ("One row: at least as fast as torch's _weight_int4pack_mm", (">=", 1.0), FAST),
    "gpu-7b": ("GPTQ of all matrices of a model with the shape of 7B takes at most 5 minutes", ("<=", 300.0),
               {"unit": "s", "better": "lower"}),
    "gpu-torchao": ("The layer error of our GPTQ in 8 bits is within 1 % of torchao's", ("<=", 1.01),
                    {"unit": "layer error", "better": "lower"}),
}  # fmt: skip
ROWS = {"gpu-decode": 1, "gpu-sixteen": 16, "gpu-many": 512}


def bench_gpu(b):
    """The claims about the GPU; where there is none, each of them says so."""
    if b.device.type != "cuda":
        for name in CLAIMS:
            absent(b, name, "no CUDA device")
        return
    bench_kernel(b)  # pragma: no cover - gpu
    bench_seven(b)  # pragma: no cover - gpu
    bench_torchao(b)  # pragma: no cover - gpu


def absent(b, name, why):
    sentence, goal, kind = CLAIMS[name]
    b.not_run(name, sentence, goal=goal, why=why, **kind)


def bench_kernel(b):  # pragma: no cover - gpu
    from .triton_kernel import w4a16

    out, into = b.pick(smoke=(256, 256), quick=SHAPES[2], full=SHAPES[2])
    linear = torch.nn.Linear(into, out, bias=False, device=b.device, dtype=torch.bfloat16)
    layer = QuantLinear.from_linear(linear, 4, 128)
    weights = [layer.whole(torch.bfloat16) for _ in range(4)]  # more than the cache holds
    codes = [layer.packed.clone() for _ in range(4)]
    for name, rows in ROWS.items():
        x = torch.randn(rows, into, device=b.device, dtype=torch.bfloat16)
        sides = {"cuBLAS": lambda x=x: [F.linear(x, w) for w in weights][-1],
                 "triton": lambda x=x: [w4a16(x, c, layer.grid.scale) for c in codes][-1]}  # fmt: skip
        if rows == 1:
            sides["int4pack"] = int4pack(layer, x)
        run = b.compare(sides, check=lambda a, c: bool((a - c).abs().max() <= 0.05 * a.abs().max()))
        sentence, goal, kind = CLAIMS[name]
        work = 4 * 2 * rows * out * into
        measured = run.figures("triton", "cuBLAS", work=work)
        b.claim(name, sentence, goal=goal, measured=measured, bound=3.88, **kind)
        if rows == 1:
            sentence, goal, kind = CLAIMS["gpu-int4pack"]
            measured = run.figures("triton", "int4pack", work=work)
            b.claim("gpu-int4pack", sentence, goal=goal, measured=measured, **kind)


def int4pack(layer, x):  # pragma: no cover - gpu
    """torch's own kernel on the same codes."""
    numbers = (layer.codes + 8).to(torch.uint8)
    packed = [torch._convert_weight_to_int4pack(numbers[:, ::2] << 4 | numbers[:, 1::2], 8) for _ in range(4)]
    scale = layer.grid.scale.bfloat16()
    steps = torch.stack((scale, torch.zeros_like(scale)), -1).transpose(0, 1).contiguous()
    group = layer.in_features // scale.size(1)
    return lambda: [torch._weight_int4pack_mm(x, p, group, steps) for p in packed][-1]


def bench_seven(b):  # pragma: no cover - gpu
    """One block of Llama 2 7B, and its time 32 times over: all blocks are alike."""
    sizes = b.pick(smoke=((256, 256),), quick=((4096, 4096),) * 4 + ((11008, 4096),) * 2 + ((4096, 11008),),
                   full=((4096, 4096),) * 4 + ((11008, 4096),) * 2 + ((4096, 11008),))  # fmt: skip
    spent = 0.0
    for out, into in sizes:
        x = torch.randn(2 * into, into, device=b.device)
        w, H = torch.randn(out, into, device=b.device) / 64, x.T @ x / len(x)
        torch.cuda.synchronize()
        began = time.perf_counter()
        gptq.gptq(w, H, 4, 128, act_order=True)
        torch.cuda.synchronize()
        spent += time.perf_counter() - began
    sentence, goal, kind = CLAIMS["gpu-7b"]
    b.claim("gpu-7b", sentence, goal=goal, measured=values("GPTQ", [32 * spent]), **kind,
            why="the moments are given: gathering them is two forwards of the calibration set")  # fmt: skip


def bench_torchao(b):  # pragma: no cover - gpu
    """Its GPTQ wants a CUDA device; in 4 bits it wants another library as well, in 8 it does not."""
    if not b.library("torchao"):
        return absent(b, "gpu-torchao", "torchao is not installed")
    from torchao.prototype.gptq.api import GPTQConfig, gptq_quantize
    from torchao.quantization import Int8WeightOnlyConfig

    torch.manual_seed(0)
    x = (torch.randn(800, 256) @ torch.randn(256, 256)).to(b.device)
    w, H = torch.randn(64, 256, device=b.device), x.T @ x / len(x)
    config = GPTQConfig(step="convert", base_config=Int8WeightOnlyConfig(version=2))
    theirs = gptq_quantize(H.clone(), w.clone(), config).dequantize()
    codes, grid = gptq.gptq(w, H, 8)
    ours, other = (layer_error(w.double(), q, H).sum().item() for q in (dequantize(codes, grid), theirs))
    sentence, goal, kind = CLAIMS["gpu-torchao"]
    measured = values("GPTQ", [ours], "torchao", [other])
    return b.claim("gpu-torchao", sentence, goal=goal, measured=measured, **kind)
