"""One kernel in CUDA C++, without Triton: threads, warps and shared memory by hand.

Before: `triton_norm.py`, where `tl_sum(x * x, 0)` is one expression. New here: what becomes of it,
`cuda/add_rms_norm.cu`: 16 bytes to a load, numbers held in registers between two passes, a sum that is handed
around in a warp (`__shfl_xor_sync`) and then through shared memory; and `cuda/binding.cpp`, which makes an
operation of torch of it. Both are built on first use, by nvcc, for the GPU that is there.

The way back is Triton's: `triton_norm.Norm` keeps the same numbers."""

import functools
import shutil
from pathlib import Path

import torch
from torch.utils import cpp_extension

from common.errors import demand

SOURCES = [Path(__file__).parent / "cuda" / name for name in ("binding.cpp", "add_rms_norm.cu")]
COMMAND = ("nvcc", "-O3", "-std=c++17", "-Xcompiler", "-fPIC", "-c")  # and -arch=sm_90 source -o object


@functools.cache
def build():
    """Compile and load. UserError where there is no GPU, or no nvcc."""
    demand(torch.cuda.is_available(), "the CUDA kernel needs a GPU, and torch sees none: use cpp_ops.py")
    demand(shutil.which("nvcc"), "the CUDA kernel is built by nvcc, which is not here: install the CUDA "
           "toolkit, or use triton_norm.py, which needs none")  # fmt: skip
    cpp_extension.load("thirty_cuda", [str(path) for path in SOURCES], extra_cuda_cflags=["-O3"],
                       is_python_module=False)  # fmt: skip  # pragma: no cover - gpu


def add_rms_norm(x, residual, weight, eps):
    """As `chains.add_rms_norm`, without gradients: x, residual (…, C) on a GPU -> (normed, total)."""
    build()
    stream = torch.cuda.current_stream(x.device).cuda_stream  # pragma: no cover - gpu
    return torch.ops.thirty_cuda.add_rms_norm(x, residual, weight, eps, stream)[:2]  # pragma: no cover - gpu
