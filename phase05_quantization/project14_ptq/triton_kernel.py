"""W4A16 in Triton: weights travel in 4 bits, and become numbers only on the chip, next to the products.

Before: a QuantLinear writes its weights whole to memory and reads them again, which is slower than never
having packed them. New here: one kernel that loads bytes, takes both codes out of each, and multiplies. With
few rows of x a product takes as long as its weights take to be read: four times fewer bytes, up to four times
the speed. With many rows the products themselves take the time, and nothing is to be won.

A byte holds two neighbouring codes. Instead of weaving them back together, x is parted: its even columns are
multiplied with the low halves, its odd ones with the high halves, and the two products added. A tile of bytes
lies within one group, so that its scales come after the product, one number for each output.

Without a CUDA device the kernel runs in Triton's interpreter: right, and slow (`UPCAST`: NumPy has no
bfloat16). Symmetric and other grids, groups of 32 and more. Seam: `swap`, of a QuantLinear.
Frantar et al. 2024, 2408.11743 (MARLIN) shows how near to four one can come."""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from triton.language import constexpr

from common.errors import demand
from common.exercise import exercise
from common.model import swap

from .rtn import QuantLinear, in_blocks

INTERPRETED = not torch.cuda.is_available()
if INTERPRETED:  # @triton.jit reads this
    triton.knobs.runtime.interpret = True
ZERO = constexpr(8)  # what rtn.pack adds to a code of 4 bits
TYPES = (torch.float32, torch.float16, torch.bfloat16)
SMALLEST, LARGEST = 16, 64  # bytes along a row in a tile


def tuned(*sizes):
    """Keep the fastest (BLOCK_N, warps, stages) for each shape: on a GPU. The interpreter cannot try."""
    sizes = [(32, 4, 1)] if INTERPRETED else sizes
    configs = [triton.Config({"BLOCK_N": n}, num_warps=w, num_stages=s) for n, w, s in sizes]
    return triton.autotune(configs, key=["M", "N", "BYTES"])


@triton.jit
@exercise
def add_bytes(acc, x, packed, scale, zero, m, n, start, stop, M, N, BYTES, GROUP: constexpr, GROUPS,
              HAS_ZERO: constexpr, BLOCK_K: constexpr, UPCAST: constexpr):  # fmt: skip
    """Add to acc (BLOCK_M, BLOCK_N), float32, what bytes start .. stop - 1 of each row give; returns it.

    x: where the even columns (M, BYTES) begin, behind which lie the odd ones (M, BYTES); rows m (BLOCK_M,),
    which exist below M. packed (N, BYTES), uint8: rows n (BLOCK_N,), which exist below N; the low four bits
    of byte k are the code of column 2k, the high ones that of 2k + 1, both with ZERO added. scale, and
    where HAS_ZERO zero, are (N, GROUPS); a group is GROUP bytes, of which BLOCK_K is a divisor.
    """
    for first in range(start, stop, BLOCK_K):
        k, group = first + tl.arange(0, BLOCK_K), first // GROUP
        codes = tl.load(packed + n[:, None] * BYTES + k[None, :], mask=n[:, None] < N, other=0).to(tl.int32)
        low, high = (codes & 15) - ZERO, (codes >> 4) - ZERO  # (BLOCK_N, BLOCK_K)
        if HAS_ZERO:
            middle = tl.load(zero + n * GROUPS + group, mask=n < N, other=0).to(tl.int32)
            low, high = low - middle[:, None], high - middle[:, None]
        at = x + m[:, None] * BYTES + k[None, :]
        even = tl.load(at, mask=m[:, None] < M, other=0.0)  # (BLOCK_M, BLOCK_K)
        odd = tl.load(at + M * BYTES, mask=m[:, None] < M, other=0.0)
        if UPCAST:
            even, odd = even.to(tl.float32), odd.to(tl.float32)
        part = tl.dot(even, low.to(even.dtype).T, input_precision="ieee")
        part = tl.dot(odd, high.to(odd.dtype).T, part, input_precision="ieee")
        steps = tl.load(scale + n * GROUPS + group, mask=n < N, other=0.0).to(tl.float32)  # (BLOCK_N,)
        acc += part * steps[None, :]
    return acc


@tuned((32, 4, 4), (64, 4, 4), (64, 4, 3), (128, 4, 3), (128, 8, 3))
@triton.jit
def w4a16_kernel(x, packed, scale, zero, y, M, N, BYTES, GROUPS, SPAN, GROUP: constexpr,
                 HAS_ZERO: constexpr, BLOCK_M: constexpr, BLOCK_K: constexpr, UPCAST: constexpr,
                 BLOCK_N: constexpr):  # fmt: skip
    """y (parts, M, N): the sums over SPAN bytes of each row, part by part."""
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(2)
    acc = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
    start, stop = part * SPAN, tl.minimum((part + 1) * SPAN, BYTES)
    acc = add_bytes(acc, x, packed, scale, zero, m, n, start, stop, M, N, BYTES, GROUP, GROUPS, HAS_ZERO,
                    BLOCK_K, UPCAST)  # fmt: skip
    there = (m[:, None] < M) & (n[None, :] < N)
    tl.store(y + (part * M + m[:, None]) * N + n[None, :], acc, mask=there)


def tile_of(columns: int, groups: int) -> tuple[int, int]:
    """(bytes in a group, bytes in a tile) for rows of so many columns. UserError where no tile fits."""
    size = columns // groups
    block = size // 2 & -(size // 2)  # the largest power of two that divides it
    fits = columns % 2 == 0 and size % 2 == 0 and block >= SMALLEST
    demand(fits, f"the kernel takes groups of multiples of {2 * SMALLEST}, not of {size}: use QuantLinear")
    return size // 2, min(block, LARGEST)


def parts_of(blocks: int, tiles: int, device) -> int:
    """In how many parts the columns are summed, so that few blocks of outputs still keep a GPU busy."""
    processors = 1 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(8, tiles, 2 * processors // blocks))


def w4a16(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor | None = None, parts: int = 0) -> Tensor:
    """x (M, K) float, packed (N, K / 2) uint8 as `rtn.pack` has it, scale and zero (N, G) -> (M, N) like x.

    parts: in how many the columns are summed; 0: as many as the device wants. UserError: other types, groups
    too small, tensors that are not where the kernel runs.
    """
    (M, K), (N, B), G = x.shape, packed.shape, scale.size(1)
    demand(x.dtype in TYPES, f"the kernel does not compute in {x.dtype}: use QuantLinear")
    demand(x.is_cuda or INTERPRETED, f"the kernel runs on a GPU, and x is on {x.device}: use integer.plug")
    demand(K == 2 * B and len(scale) == N, f"x has {K} columns and packed {tuple(packed.shape)} bytes")
    group, block = tile_of(K, G)
    halves = x.view(M, B, 2).permute(2, 0, 1).contiguous()  # (2, M, K / 2): even columns, odd ones
    rows = min(128, max(16, triton.next_power_of_2(M)))
    tiles = triton.cdiv(B, block)
    parts = parts or parts_of(triton.cdiv(N, 64) * triton.cdiv(M, rows), tiles, x.device)
    y = torch.empty(parts, M, N, dtype=torch.float32, device=x.device)
    grid = lambda meta: (triton.cdiv(N, meta["BLOCK_N"]), triton.cdiv(M, rows), parts)  # noqa: E731
    w4a16_kernel[grid](halves, packed, scale, scale if zero is None else zero, y, M, N, B, G,
                       triton.cdiv(tiles, parts) * block, group, zero is not None, BLOCK_M=rows,
                       BLOCK_K=block, UPCAST=INTERPRETED and x.dtype == torch.bfloat16)  # fmt: skip
    return y.sum(0).to(x.dtype)


class W4Linear(nn.Module):
    """A QuantLinear of 4 bits that multiplies by the kernel."""

    def __init__(self, layer: QuantLinear):
        super().__init__()
        demand(layer.bits == 4, f"the kernel takes 4 bits, not {layer.bits}: use QuantLinear")
        demand(len(layer.steps) == layer.out_features, "the kernel takes steps for each row: use QuantLinear")
        tile_of(layer.in_features, layer.steps.size(1))
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        flat, layer = x.reshape(-1, x.size(-1)), self.layer
        y = w4a16(flat, layer.packed, layer.grid.scale, layer.zero)
        return (y if layer.bias is None else y + layer.bias).view(*x.shape[:-1], -1)

    @property
    def weight(self) -> Tensor:
        return self.layer.whole()


def plug(model):
    """Let the 4-bit matrices of the blocks multiply by the kernel; the model is changed and returned."""
    return swap(model, QuantLinear, W4Linear, in_blocks)
