"""What the Triton kernels share: one program to a row, and Triton's interpreter where there is no GPU.

Before: `chains.py`, a kernel for each operation. New in the files `triton_…`: a kernel for each chain. A
program loads a row into the registers of one core, does all of the chain, and stores what comes out.

Without a CUDA device the kernels run in Triton's interpreter, on NumPy: right, and slow. NumPy has no
bfloat16, so everything is made float32 when it is loaded; a norm or a softmax needs that on a GPU as well.
Tillet, Kung, Cox 2019, "Triton", MAPL; Hsu et al. 2024, 2410.10989 (Liger: these kernels for training)."""

import torch
import triton
import triton.language as tl
from triton.language import constexpr  # noqa: F401, for the files that import it from here

from common.errors import demand

INTERPRETED = not torch.cuda.is_available()
tl_max, tl_sum = tl.max, tl.sum
if INTERPRETED:  # @triton.jit reads this; it made the two when Triton was imported, and makes them again
    triton.knobs.runtime.interpret = True
    tl_max, tl_sum = (triton.jit(function.fn) for function in (tl.max, tl.sum))
DEVICE = "cpu" if INTERPRETED else "cuda"
TYPES = (torch.float32, torch.float16, torch.bfloat16)
WIDEST = 65536  # numbers that the registers of one program hold


def ready(*tensors):
    """The tensors, contiguous. UserError for a type or device that the kernels do not compute on."""
    for x in tensors:
        demand(
            x.dtype in TYPES, f"the Triton kernels do not compute in {x.dtype}: use chains.py or cpp_ops.py"
        )
        demand(x.is_cuda or INTERPRETED, f"the kernels run on a GPU and a tensor is on {x.device}: move it")
    return [x.contiguous() for x in tensors]


def whole_row(width):
    """{BLOCK, num_warps} for a program that holds a row of so many numbers; UserError if it cannot."""
    demand(width <= WIDEST, f"a row of {width:,} numbers is more than a program can hold: at most {WIDEST:,}")
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(16, max(4, block // 1024))}


def shares(rows):
    """Into how many programs to divide rows whose results are summed: as many as the GPU has cores."""
    if INTERPRETED:
        return min(rows, 3)
    return min(rows, 4 * torch.cuda.get_device_properties(0).multi_processor_count)  # pragma: no cover - gpu
