"""Zeros that take no room: one bit a weight says where something stands, and only that is kept.

Before: a matrix that is half zeros is as many bytes as any other. New here: a bitmask beside the values that
are left. Of n weights in b bits, of which a share s is 0, remain

    n · ((1 - s) · b + 1) bits          at s = 1/2:  0.5625 of 16 bits,  0.531 of 32

    w        0.7  0   0  -1.2  0   0.1  0   0         bits of a byte, the first weight lowest:
    mask      1   0   0   1    0   1    0   0         00101001 = 41, and behind it  0.7  -1.2  0.1

Numbers of 32 bits for where each value stands would cost more than the zeros did, up to s = 1/2 and beyond. A
BitmaskLinear makes its matrix whole when it is used: it saves room, never time. Before you compute, `whole`.
Seam: `swap`. `restore` rebuilds the shapes of a folder, also those that `structured.py` has cut.

Numbers of bits: Frantar & Alistarh 2023, 2301.00774, section 4 (half the bytes for values, one bit a mask).
"""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import demand
from common.exercise import exercise
from common.model import swap

from . import structured
from .magnitude import Masks, matrices


@exercise
def pack(mask: Tensor) -> Tensor:
    """bool of any shape -> uint8 (ceil(n / 8),): eight to a byte, the first in its lowest bit, row by row.

    What is left over in the last byte is 0.
    """
    flat = mask.flatten().to(torch.uint8)
    bits = F.pad(flat, (0, -len(flat) % 8)).view(-1, 8)  # (bytes, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(1, dtype=torch.uint8)


@exercise
def unpack(packed: Tensor, shape) -> Tensor:
    """uint8 (ceil(n / 8),) -> the bool tensor of this shape that `pack` was given."""
    bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1  # (bytes, 8)
    return bits.flatten()[: torch.Size(shape).numel()].bool().view(shape)


@exercise
def compress(w: Tensor) -> tuple[Tensor, Tensor]:
    """w (out, in) -> (bits of `pack`, the values that are not 0, row by row (kept,), in w's dtype)."""
    mask = w != 0
    return pack(mask), w[mask]


@exercise
def expand(packed: Tensor, values: Tensor, shape) -> Tensor:
    """The matrix that `compress` was given, to the last bit: zeros, and the values where the bits say."""
    mask = unpack(packed, shape)
    return torch.zeros(shape, dtype=values.dtype, device=values.device).masked_scatter_(mask, values)


def predicted(n: int, sparsity: float, bits: int) -> float:
    """Bytes of n weights in so many bits, of which a share is 0: bitmask and values."""
    return n * ((1 - sparsity) * bits + 1) / 8


class BitmaskLinear(nn.Module):
    """x (…, in) -> (…, out), from a bitmask and the values that are not 0: made whole each time it is used.

    No bias: the matrices of the core have none.
    """

    packed: Tensor  # uint8 (ceil(out in / 8),)
    values: Tensor  # (kept,), in the dtype that the weights had

    def __init__(self, shape, packed: Tensor, values: Tensor):
        super().__init__()
        self.out_features, self.in_features = shape
        self.register_buffer("packed", packed)
        self.register_buffer("values", values)

    @classmethod
    def of(cls, linear: nn.Linear) -> "BitmaskLinear":
        demand(linear.bias is None, "a Linear with a bias is not stored by bitmask here")
        return cls(linear.weight.shape, *compress(linear.weight.detach()))

    @property
    def weight(self) -> Tensor:
        """The matrix, (out, in)."""
        return expand(self.packed, self.values, (self.out_features, self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def store(model):
    """Keep the blocks' matrices by bitmask; the model computes what it did, to the last bit. Returns it."""
    found = {id(matrix) for matrix in matrices(model).values()}
    modules = dict(model.named_modules())
    return swap(model, nn.Linear, BitmaskLinear.of, lambda name: id(modules[name]) in found)


def whole(model):
    """The other way: plain Linears, which are as fast as any. Returns the model."""

    def make(old: BitmaskLinear) -> nn.Linear:
        linear = nn.Linear(old.in_features, old.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(old.weight)
        return linear

    return swap(model, BitmaskLinear, make)


def stored(model) -> dict[str, int]:
    """{name of each BitmaskLinear: how many values it keeps}, for a folder; {} where there is none."""
    return {name: len(module.values) for name, module in model.named_modules()
            if isinstance(module, BitmaskLinear)}  # fmt: skip


# ---- masks by themselves ----


def fingerprint(model) -> str:
    """Says which model it is: sha256 over names, shapes and weights of its matrices."""
    digest = hashlib.sha256()
    for name, matrix in matrices(model).items():
        weight = matrix.weight.detach().float().cpu().contiguous()
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def unpack_masks(packed: dict[str, Tensor], made_of: str, model) -> Masks:
    """Masks of a file, {name: pack's bytes}, that were found for the model with that fingerprint.

    UserError where that is another one, or they are not as many as its weights.
    """
    demand(made_of == fingerprint(model), "the masks were found for another model: weights that are small in "
           "one are not small in the other; prune this one itself")  # fmt: skip
    found = matrices(model)
    sizes = {name: -(-matrix.weight.numel() // 8) for name, matrix in found.items()}
    same = {name: len(bits) for name, bits in packed.items()} == sizes
    demand(same, "the file of masks is damaged: it does not hold a bit for each weight; prune again")
    return {name: unpack(packed[name], matrix.weight.shape) for name, matrix in found.items()}


# ---- folders ----


def restore(model, blocks: list[dict] | None = None, stored: dict[str, int] | None = None,
            dtype: str = "float32"):  # fmt: skip
    """The shapes of a folder noted as hub.mark(model, "project17_pruning", blocks=…, stored=…, dtype=…): for
    hub.load(folder, restore={"project17_pruning": restore}). blocks: structured.shapes; stored: stored's.
    """
    model = model.to(getattr(torch, dtype))
    if blocks:
        structured.shaped(model, blocks)
    for name, values in (stored or {}).items():
        linear = matrices(model).get(name)
        demand(linear is not None, f"the folder keeps {name} by bitmask, and its model has no such matrix")
        n = linear.weight.numel()
        empty = torch.empty(-(-n // 8), dtype=torch.uint8), torch.empty(values, dtype=linear.weight.dtype)
        model.set_submodule(name, BitmaskLinear(linear.weight.shape, *empty))
    return model
