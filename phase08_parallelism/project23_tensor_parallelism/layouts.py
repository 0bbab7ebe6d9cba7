"""How to spread a training over many GPUs: memory, bytes and the share of the peak, by formulas.

Four ways to cut, and each costs something else:

    tensor     each matrix in t parts         4 sums a block over the rows of a micro-batch; inside a node
    context    each sequence in c parts       keys and values of the other parts, in each block
    pipeline   the blocks in p stages         p - 1 of m + p - 1 turns in which a stage has nothing to do
    data       the batch in d parts           gradients and weights once a step

The formulas count what a GPU holds, sends and computes; what they cannot count is in `Machine.efficiency`,
the share of the peak that kernels reach, set once for each kind of GPU. `_published.py` has runs to check
against.

Narayanan et al. 2021, 2104.04473 (Megatron); Korthikanti et al. 2022, 2205.05198 (activations);
Rajbhandari et al. 2019, 1910.02054 (state); Llama team 2024, 2407.21783 (Llama 3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from common.device import model_flops
from common.errors import demand

WEIGHT, GRADIENT, ADAM = 2, 4, 12  # bytes a parameter: bf16; float32; float32 weight and two moments
ACTIVATION = 34  # bytes a token, channel and block, nothing recomputed but attention (Korthikanti, eq. 4)
KEPT = 2  # the same where blocks are recomputed: a block's input in bf16


class Machine(NamedTuple):
    """A kind of GPU and how it is wired. The peak is of dense bf16."""

    name: str
    memory: float
    """Bytes."""
    peak: float
    """FLOP/s."""
    node: int
    """GPUs that are wired to one another directly."""
    inside: float
    """Bytes/s that one GPU sends inside a node."""
    outside: float
    """Bytes/s that one GPU sends to other nodes."""
    efficiency: float
    """Share of the peak that kernels reach with nothing to wait for; fitted to PUBLISHED."""


MACHINES = {
    "A100": Machine("A100", 80e9, 312e12, 8, 300e9, 25e9, 0.56),
    "H100": Machine("H100", 80e9, 989e12, 8, 450e9, 50e9, 0.56),
}


@dataclass(frozen=True)
class Shape:
    """A model and its batch. UserError where that makes no sense."""

    n_layer: int
    d_model: int
    n_head: int
    n_kv_head: int
    n_params: float
    vocab_size: int
    context: int
    batch: int
    """Sequences in an update."""

    def __post_init__(self):
        demand(min(self.n_layer, self.d_model, self.n_head, self.n_kv_head, self.context, self.batch) >= 1
               and self.n_params > 0, "sizes of a model and its batch must be at least 1")  # fmt: skip

    @classmethod
    def guess(cls, n_params: float, context: int, batch: int, vocab_size: int = 128_256) -> "Shape":
        """The shape of a Llama of so many parameters: 12.5 C² a block, 102 channels for each block."""
        demand(n_params >= 1e6, f"{n_params:.3g} parameters: give at least 1e6")
        n_layer = max(2, round((n_params / 12.5 / 102**2) ** (1 / 3) / 4) * 4)
        heads = max(1, round(102 * n_layer / 128))
        heads = round(heads / 8) * 8 if heads > 8 else heads  # so that a node of 8 can share them out
        keys = 8 if heads % 8 == 0 else heads
        return cls(n_layer, 128 * heads, heads, keys, n_params, vocab_size, context, batch)

    @property
    def flops(self) -> float:
        """Of an update, without recomputation (PaLM's count)."""
        per_token = model_flops(self.n_params, self.n_layer, self.d_model, self.context)
        return per_token * self.context * self.batch


class Layout(NamedTuple):
    """GPUs along each axis; sequences of a micro-batch; how often a stage comes round; recomputed blocks?"""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    context: int = 1
    micro: int = 1
    rounds: int = 1
    recompute: bool = False

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.data * self.context

    def micro_batches(self, shape: Shape) -> float:
        """Of one data-parallel row in an update."""
        return shape.batch / (self.data * self.micro)


class Costs(NamedTuple):
    """What an update costs one GPU: bytes held, bytes sent by axis, seconds, and the model's share of the
    peak (MFU, which counts no recomputation)."""

    state: float
    activations: float
    tensor: float
    context: float
    pipeline: float
    data: float
    seconds: float
    mfu: float
    bubble: float

    @property
    def memory(self) -> float:
        return self.state + self.activations


def fullest(shape: Shape, layout: Layout) -> float:
    """Blocks of the stage that has most, over the mean: 1 where they come out even."""
    return -(-shape.n_layer // layout.pipeline) * layout.pipeline / shape.n_layer


def state_bytes(shape: Shape, layout: Layout) -> float:
    """Weights and gradients of this GPU's part, and Adam's state, shared over the data-parallel ranks."""
    own = shape.n_params / (layout.tensor * layout.pipeline) * fullest(shape, layout)
    return own * (WEIGHT + GRADIENT + ADAM / (layout.data * layout.context))


def activation_bytes(shape: Shape, layout: Layout) -> float:
    """Of the first stage: with 1F1B it holds p micro-batches of its n_layer / p blocks, so n_layer of one."""
    tokens = layout.micro * shape.context / layout.context
    held = min(layout.pipeline, layout.micro_batches(shape)) * -(-shape.n_layer // layout.pipeline)
    a_block = tokens * shape.d_model * ACTIVATION / layout.tensor
    if layout.recompute:
        return tokens * shape.d_model * KEPT / layout.tensor * held + a_block
    return (
        held * a_block * (1 + (layout.rounds > 1) * (layout.pipeline - 1) / (layout.pipeline * layout.rounds))
    )


def sent(shape: Shape, layout: Layout) -> tuple[float, float, float, float]:
    """Bytes that one GPU sends in an update: for the tensor, context, pipeline and data axis."""
    t, p, d, c = layout[:4]
    rows = layout.micro_batches(shape) * layout.micro * shape.context / c  # tokens that a GPU sees
    blocks, wide = shape.n_layer / p, shape.d_model * 2  # bytes of a token between blocks, in bf16
    sums = 6 if layout.recompute else 4
    tensor = blocks * sums * 2 * (t - 1) / t * rows * wide
    keys = 2 * wide * shape.n_kv_head / shape.n_head / t  # keys and values of a token
    context = blocks * 3 * (c - 1) * rows * keys  # gathered forwards and backwards, scattered backwards
    pipeline = 2 * rows * wide / t * layout.rounds if p > 1 else 0.0
    members = d * c
    data = (members - 1) / members * shape.n_params / (t * p) * (GRADIENT + WEIGHT)
    return tensor, context, pipeline, data


def costs(shape: Shape, layout: Layout, machine: Machine) -> Costs:
    """What an update takes. Tensor traffic is waited for. That of the context and pipeline axes runs beside
    half of the products; the data-parallel one, beside half of those of one micro-batch."""
    tensor, context, pipeline, data = sent(shape, layout)
    work = (
        shape.flops / layout.gpus / (machine.peak * machine.efficiency) * (4 / 3 if layout.recompute else 1)
    )
    work *= fullest(shape, layout)
    inside = layout.tensor <= machine.node
    waits = tensor / (machine.inside if inside else machine.outside)
    waits += max(0.0, (context + pipeline) / machine.outside - work / 2)
    turns = layout.micro_batches(shape)
    bubble = (layout.pipeline - 1) / (layout.rounds * turns)  # in shares of the work
    last = max(0.0, data / machine.outside - work / turns / 2)
    seconds = (work + waits) * (1 + bubble) + last
    mfu = shape.flops / layout.gpus / machine.peak / seconds
    return Costs(state_bytes(shape, layout), activation_bytes(shape, layout), tensor, context, pipeline, data,
                 seconds, mfu, bubble / (1 + bubble))  # fmt: skip


def layouts(shape: Shape, gpus: int, machine: Machine) -> Iterator[Layout]:
    """All that use every GPU, heads and sequences shared out evenly; tensor parallelism stays in a node."""
    for t in divisors(min(machine.node, gpus)):
        for p in (k for k in divisors(gpus) if k <= shape.n_layer):
            for c in divisors(shape.context // 1024 or 1):
                d, left = divmod(gpus, t * p * c)
                if left or not d or shape.n_head % t or shape.batch % d:
                    continue
                for recompute in (False, True):
                    rounds = 2 if 1 < p <= shape.n_layer // 2 else 1
                    yield Layout(t, p, d, c, 1, rounds, recompute)


def divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def best(shape: Shape, gpus: int, machine: Machine, room: float = 0.9) -> list[tuple[Layout, Costs]]:
    """Layouts that fit into `room` of the memory, the quickest first. UserError where none does."""
    tried = [(layout, costs(shape, layout, machine)) for layout in layouts(shape, gpus, machine)]
    demand(tried, f"{shape.n_layer} blocks and {shape.batch} sequences cannot be shared out over {gpus} "
           "GPUs: give another number of GPUs, or of sequences (--batch)")  # fmt: skip
    fit = [(layout, cost) for layout, cost in tried if cost.memory <= room * machine.memory]
    least = min(cost.memory for _, cost in tried)
    demand(fit, f"no layout fits: the smallest needs {least / 1e9:.0f} GB on each of {gpus} GPUs, which have "
           f"{machine.memory / 1e9:.0f}: take more GPUs, or a smaller model")  # fmt: skip
    return sorted(fit, key=lambda pair: -pair[1].mfu)
