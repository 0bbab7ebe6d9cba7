"""Real integers: products of 8-bit numbers, summed up in 32 bits; and which kernel to ask for them.

Before: a QuantLinear is small on disk and in memory, but makes its weights whole for each product: slower
than floats. New here: inputs are rounded too, each row of x by its own largest magnitude, and whole numbers
are multiplied with whole numbers:

    y = (x8 · w8ᵀ) · scale of the row of x · scale of the row of w

The product is exact: 127 · 127 · 100,000 still fits into 32 bits. Where it is not worth while, with few rows,
it is enough that the weights are *read* in 8 or 4 bits, and the rest computed in bfloat16.

A CPU has several kernels for this, and which is fastest depends on the shape and on the machine: the one that
wins for one row loses for a hundred. So each is tried once for each shape, on this machine, must give the
right answer, and the fastest is remembered. Seam: `swap`, of a QuantLinear.

Jacob et al. 2018, 1712.05877; the kernels are those that PyTorch brings (FBGEMM, oneDNN, ATen).
"""

import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from common.model import swap

from .rtn import QuantLinear, in_blocks


def plain_product(a: Tensor, b: Tensor) -> Tensor:
    """a (M, K) and b (N, K), int8 -> a · bᵀ (M, N): the text and the oracle, in 64 bits."""
    return (a.long()[:, None] * b.long()).sum(-1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The same as int32, by the kernel of this device. UserError where a sum might not fit into 32 bits."""
    demand(a.size(1) < 2**31 // 128**2, f"sums of {a.size(1)} products may overflow 32 bits")
    if a.is_cuda:  # pragma: no cover - gpu
        pad = (0, -a.size(1) % 8, 0, max(32 - len(a), 0)), (0, -b.size(1) % 8, 0, -len(b) % 8)
        return torch._int_mm(F.pad(a, pad[0]), F.pad(b, pad[1]).T)[: len(a), : len(b)]
    if a.size(1) == 1:  # the kernel of torch 2.13 leaves such a product unwritten
        return a.int() * b.int().T
    return torch._int_mm(a, b.T)


@exercise
def absmax_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, K) -> codes (M, K) int8 and scales (M, 1) float32, a row's largest magnitude falling onto 127.

    Rounded half to even, in float32. A row of zeros has codes 0 and a scale that is not 0.
    """
    x = x.float()
    scale = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127  # (M, 1)
    return (x / scale).round().to(torch.int8), scale


@exercise
def int8_linear(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x (M, K) floats, codes (N, K) int8, scale (N,) float32 -> x · (scale · codes)ᵀ, (M, N) float32.

    x is rounded by absmax_rows; the product itself is `product`'s, of integers.
    """
    x8, steps = absmax_rows(x)
    return product(x8, codes).float() * steps * scale  # (M, N)


# ---- the kernels: make(layer) -> call(x (M, K) float32) -> (M, N) float32; without the bias ----


def whole(layer):
    w = layer.whole()
    return lambda x: F.linear(x, w)


def by_rows(layer) -> Tensor:
    """The scale of each row, (out,) float32, of a layer with a grid of rows and no zero."""
    return layer.grid.scale.float()[:, 0].expand(layer.out_features).contiguous()


def int_mm(layer):
    codes, scale = layer.codes, by_rows(layer)
    return lambda x: int8_linear(x, codes, scale)


def dynamic(engine):
    """PyTorch's dynamic linear: x rounded to 8 bits by one scale for all of its rows, with a zero point."""

    def make(layer):
        codes, before = layer.codes, torch.backends.quantized.engine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tensor type is deprecated; its kernels have no successor
            zero = torch.zeros(len(codes), dtype=torch.long)
            weight = torch._make_per_channel_quantized_tensor(codes, by_rows(layer).double(), zero, 0)
            torch.backends.quantized.engine = engine
            try:
                packed = torch.ops.quantized.linear_prepack(weight, None)
            finally:
                torch.backends.quantized.engine = before
        return lambda x: torch.ops.quantized.linear_dynamic(x, packed, False)

    return make


def int8_weights(layer):
    """Weights read in 8 bits, everything else in bfloat16."""
    codes, scale = layer.codes, by_rows(layer).bfloat16()
    return lambda x: torch._weight_int8pack_mm(x.bfloat16(), codes, scale).float()


def int4_weights(layer):
    """Weights read in 4 bits, everything else in bfloat16. The kernel's numbers go from 0 to 15 around 8."""
    packed = torch._convert_weight_to_int4pack_for_cpu(layer.codes.int() + 8, 1)
    scale = layer.grid.scale.float()  # (N, G)
    low = torch.zeros_like(scale) if layer.zero is None else -scale * layer.zero
    steps = torch.stack((scale, low), -1).transpose(0, 1).contiguous().bfloat16()  # (G, N, 2)
    group = layer.in_features // scale.size(1)
    return lambda x: torch._weight_int4pack_mm_for_cpu(x.bfloat16(), packed, group, steps).float()


def rows_of_bytes(layer) -> bool:
    return layer.bits == 8 and layer.zero is None and layer.steps.size(1) == 1


def groups_of_nibbles(layer) -> bool:
    size = layer.in_features // layer.steps.size(1)
    sizes_fit = layer.out_features % 16 == 0 and size in (32, 64, 128, 256)
    return layer.bits == 4 and sizes_fit and len(layer.steps) == layer.out_features


# name -> (make, which layers it serves)
KERNELS: dict[str, tuple[Callable, Callable]] = {
    "whole": (whole, lambda layer: True),
    "int_mm": (int_mm, rows_of_bytes),
    "x86": (dynamic("x86"), lambda layer: rows_of_bytes(layer) and "x86" in engines()),
    "onednn": (dynamic("onednn"), lambda layer: rows_of_bytes(layer) and "onednn" in engines()),
    "int8 weights": (int8_weights, rows_of_bytes),
    "int4 weights": (int4_weights, groups_of_nibbles),
}


def engines() -> list[str]:
    return torch.backends.quantized.supported_engines


def fastest(call: Callable, x: Tensor, clock=time.perf_counter, runs=5) -> float:
    """Seconds of the shortest of some calls, each after one that warms up."""
    call(x)
    seconds = []
    for _ in range(runs):
        start = clock()
        call(x)
        seconds.append(clock() - start)
    return min(seconds)


class Chooser:
    """Remembers the fastest kernel of each shape, {(rows, out, in, bits): {kernel: seconds}}; one a model.

    rows are rounded up to a power of two. A kernel whose answer is further than `error` (a share of the
    largest number) from that of whole weights does not take part: one that saturates at 16 bits, say.
    """

    def __init__(self, names=tuple(KERNELS), error=0.05, measure=fastest):
        strange = sorted(set(names) - set(KERNELS))
        demand(not strange, f"no kernel is called {', '.join(strange)}: there are {', '.join(KERNELS)}")
        self.names, self.error, self.measure, self.times = names, error, measure, {}

    @exercise
    def choose(self, layer: QuantLinear, rows: int, kernel: Callable[[str], Callable]) -> str:
        """The name of the fastest kernel for `rows` rows, a power of two, through this layer.

        kernel(name) makes one of self.names for it. Only those that serve the layer are tried, on random x
        (rows, in), and of those only the ones with an answer within self.error of whole(layer)'s are timed,
        by self.measure(call, x). The times are kept in self.times, and a shape is measured once.
        """
        shape = rows, layer.out_features, layer.in_features, layer.bits
        if shape not in self.times:
            x = torch.randn(rows, layer.in_features, generator=torch.Generator().manual_seed(0))
            want, self.times[shape] = whole(layer)(x), {}
            for name in self.names:
                if not KERNELS[name][1](layer):
                    continue
                call = kernel(name)
                if (call(x) - want).abs().max() <= self.error * want.abs().max():
                    self.times[shape][name] = self.measure(call, x)
        times = self.times[shape]
        demand(times, f"none of the kernels {', '.join(self.names)} serves {layer.bits} bits in this layout")
        return min(times, key=times.get)


class FastLinear(nn.Module):
    """A QuantLinear that multiplies by the kernel that is fastest for its number of rows. For inference."""

    def __init__(self, layer: QuantLinear, chooser: Chooser):
        super().__init__()
        self.layer, self.chooser, self.calls, self.chosen = layer, chooser, {}, {}

    def kernel(self, name: str) -> Callable:
        if name not in self.calls:
            self.calls[name] = KERNELS[name][0](self.layer)
        return self.calls[name]

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.size(-1))
        rows = 1 << (len(flat) - 1).bit_length()
        call = self.chosen.get(rows) or self._choose(rows)
        y = call(flat.float())
        if self.layer.bias is not None:
            y = y + self.layer.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    @torch.no_grad()
    def _choose(self, rows: int) -> Callable:
        self.chosen[rows] = self.kernel(self.chooser.choose(self.layer, rows, self.kernel))
        kept = set(map(id, self.chosen.values()))  # what lost need not stay packed in memory
        self.calls = {name: call for name, call in self.calls.items() if id(call) in kept}
        return self.chosen[rows]

    @property
    def weight(self) -> Tensor:
        return self.layer.whole()


def plug(model, chooser: Chooser | None = None):
    """Let the quantised matrices of the blocks, and a quantised head, multiply by the kernels of this CPU.

    The model is changed and returned; it is no longer one to be saved. UserError on another device.
    """
    here = model.norm.weight.device.type
    demand(here == "cpu", f"these are kernels of a CPU, and the model is on {here}: use triton_kernel.plug")
    chooser = chooser or Chooser()
    return swap(model, QuantLinear, lambda old: FastLinear(old, chooser),
                lambda name: in_blocks(name) or name == "head")  # fmt: skip
