"""What is measured on a GPU alone: the Triton split beside itself unsplit, torch's backends and others."""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.benchmark import values
from common.profiling import peak_of

from ._sides import and_back, bytes_of, inputs, repeated, rows_of

SHAPE = (1, 32, 8, 32_768, 128)  # B, H, K, S, D
STEP = "A step over 32,768 keys in bfloat16, batch 1, 32 query heads, 8 key heads: the kernel "
# (id, sentence, side, goal)
CLAIMS = (
    ("gpu-unsplit", STEP + "is at least 4 times as fast as unsplit", "unsplit", 4.0),
    ("gpu-sdpa", STEP + "is at least 1.2 times as fast as the best backend of SDPA", "SDPA", 1.2),
    ("gpu-flex", STEP + "is at least 1.2 times as fast as FlexAttention", "FlexAttention", 1.2),
    ("gpu-xformers", STEP + "is at least as fast as xFormers", "xFormers", 1.0),
)
BANDWIDTH = "gpu-bandwidth", STEP + "reads at 80 % or more of what a copy moves", 0.8
WORKSPACE = "gpu-workspace", STEP + "needs at most 1 % of the cache's bytes beside it", 0.01
MEMORY = "gpu-memory", "16,384 tokens, there and back in chunks: at most a twentieth of the matrix", 0.05


def bench_gpu(b):
    """The claims about the kernel; where there is no GPU, each of them says so."""
    b.library("xformers")
    if b.device.type == "cuda":  # pragma: no cover - gpu
        return measure(b)
    for name, sentence, _, goal in CLAIMS:
        b.not_run(name, sentence, unit="bytes/s", better="higher", goal=(">=", goal), why="no CUDA device")
    b.not_run(BANDWIDTH[0], BANDWIDTH[1], unit="of copy bandwidth", better="higher",
              goal=(">=", BANDWIDTH[2]), why="no CUDA device")  # fmt: skip
    for name, sentence, goal in (WORKSPACE, MEMORY):
        b.not_run(name, sentence, unit="bytes", better="lower", goal=("<=", goal), why="no CUDA device")


def measure(b):  # pragma: no cover - gpu
    from . import triton_kernel

    B, H, K, S, D = b.pick(smoke=(1, 8, 2, 1024, 128), quick=SHAPE, full=SHAPE)
    q, k, v = inputs(B, H, K, 1, S, D, device=b.device, dtype=torch.bfloat16)
    reach = torch.full((1, 1), S, device=b.device)
    sides = {
        "split": lambda: triton_kernel.split(q, k, v, reach),
        "unsplit": lambda: triton_kernel.split(q, k, v, reach, splits=1),
        **rivals(b, q, k, v),
    }
    run, moved = b.compare(sides, check=alike, memory=False), bytes_of(k, v)
    seconds = {name: side.median for name, side in run.sides.items()}
    best = min((name for name in seconds if name.startswith("SDPA")), key=seconds.get)
    for name, sentence, side, goal in CLAIMS:
        side = best if side == "SDPA" else side
        claim = {"unit": "bytes/s", "better": "higher", "goal": (">=", goal)}
        if side in run.sides:
            b.claim(name, sentence, measured=run.figures("split", side, work=moved), **claim)
        else:
            b.not_run(name, sentence, why=f"{side} is not here", **claim)
    share = [moved / spent / b.ceilings.copy for spent in run.sides["split"].seconds]
    b.claim(BANDWIDTH[0], BANDWIDTH[1], unit="of copy bandwidth", better="higher", bound=1.0,
            goal=(">=", BANDWIDTH[2]), measured=values("split", share))  # fmt: skip
    held = peak_of(sides["split"], b.device)
    b.claim(WORKSPACE[0], WORKSPACE[1], unit="bytes", better="lower", goal=("<=", WORKSPACE[2]),
            measured=values("split", [held], "the cache", [moved]))  # fmt: skip
    bench_memory(b)


def alike(want, got):  # pragma: no cover - gpu
    return (want.float() - got.float()).abs().max() <= 0.02 * want.abs().max()


def rivals(b, q, k, v):  # pragma: no cover - gpu
    """{name: call}: every backend of torch's that takes this, FlexAttention, xFormers where installed."""
    found, G = {"FlexAttention": flex(q, k, v)}, q.size(1) // k.size(1)
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):

        def call(backend=backend):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

        try:
            call()
        except RuntimeError as error:
            b.say(f"SDPA has no {backend.name} for this: {str(error).splitlines()[0]}")
            continue
        found[f"SDPA, {backend.name}"] = call
    found["SDPA, heads repeated"] = lambda: F.scaled_dot_product_attention(q, repeated(k, G), repeated(v, G))
    if b.library("xformers"):
        from xformers.ops import memory_efficient_attention

        rows = [x.transpose(1, 2).unflatten(2, (k.size(1), -1)) for x in (q, k, v)]  # (B, S, K, G or 1, D)
        rows = [rows[0], *(x.expand(-1, -1, -1, G, -1) for x in rows[1:])]
        found["xFormers"] = lambda: memory_efficient_attention(*rows).flatten(2, 3).transpose(1, 2)
    return found


def flex(q, k, v):  # pragma: no cover - gpu
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention)
    return lambda: compiled(q, k, v, enable_gqa=True)


def bench_memory(b):  # pragma: no cover - gpu
    T = b.pick(smoke=1024, quick=16_384, full=16_384)
    given = inputs(1, 4, 4, T, T, 64, device=b.device, gradients=True)
    sides = {name: and_back(call, given) for name, call in rows_of(*given).items()}
    held = {name: peak_of(sides[name], b.device) for name in ("materialised", "chunked")}
    b.claim(MEMORY[0], MEMORY[1], unit="bytes", better="lower", goal=("<=", MEMORY[2]),
            measured=values("chunked", [held["chunked"]], "matrix", [held["materialised"]]))  # fmt: skip
