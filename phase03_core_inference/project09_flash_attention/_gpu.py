"""What is measured on a GPU alone: the Triton kernel beside torch's backends, FlexAttention, the tutorial."""

import importlib.util

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.benchmark import values
from common.profiling import peak_of

from . import tiled
from ._sides import and_back, causal, inputs

FORWARD = "8,192 causal tokens in bfloat16, head_dim 128, forward: the kernel is at least "
BOTH = "8,192 causal tokens in bfloat16, head_dim 128, forward and backward: the kernel is at least "
# (id, sentence, rival, whether the way back is part of it, goal)
CLAIMS = (
    ("gpu-flash", FORWARD + "1.2 times as fast as SDPA-flash", "SDPA-flash", False, 1.2),
    ("gpu-cudnn", FORWARD + "0.8 times as fast as cuDNN", "cuDNN", False, 0.8),
    ("gpu-flex", FORWARD + "as fast as FlexAttention", "FlexAttention", False, 1.0),
    ("gpu-tutorial", FORWARD + "as fast as the tutorial of Triton", "Triton's tutorial", False, 1.0),
    ("gpu-eager", FORWARD + "10 times as fast as the matrix", "materialised", False, 10.0),
    ("gpu-flash-back", BOTH + "as fast as SDPA-flash", "SDPA-flash", True, 1.0),
    ("gpu-tutorial-back", BOTH + "as fast as the tutorial of Triton", "Triton's tutorial", True, 1.0),
)
MEMORY = "gpu-memory", "4,096 tokens: the kernel holds at most a tenth of what the matrix takes", 0.1
ERROR = "gpu-error", "The kernel's largest error against float64 is at most twice that of SDPA-flash", 2.0


def bench_gpu(b):
    """The claims about the kernel; where there is no GPU, each of them says so."""
    if b.device.type == "cuda":  # pragma: no cover - gpu
        return measure(b)
    for name, sentence, _, _, goal in CLAIMS:
        b.not_run(name, sentence, unit="FLOP/s", better="higher", goal=(">=", goal), why="no CUDA device")
    for (name, sentence, goal), unit in ((MEMORY, "bytes"), (ERROR, "largest error")):
        b.not_run(name, sentence, unit=unit, better="lower", goal=("<=", goal), why="no CUDA device")


def measure(b):  # pragma: no cover - gpu
    from . import triton_kernel

    B, H, T, D = b.pick(smoke=(1, 4, 1024, 128), quick=(2, 16, 8192, 128), full=(2, 16, 8192, 128))
    for back, passes in ((False, 1.0), (True, 3.5)):
        given = inputs(B, H, H, T, D, device=b.device, dtype=torch.bfloat16, gradients=back)
        sides = rivals(b, triton_kernel, *given)
        if back:
            sides = {name: and_back(call, given) for name, call in sides.items()}
        work = passes * 4 * B * H * D * T * T / 2
        run = b.compare(
            {"triton": sides.pop("triton"), **sides}, check=alike, counts={"triton": {"FLOPs": work}}
        )
        for name, sentence, rival, both, goal in CLAIMS:
            if both is back:
                claim(b, run, name, sentence, rival, goal, work)
    bench_memory(b, triton_kernel)
    bench_error(b, triton_kernel)


def claim(b, run, name, sentence, rival, goal, work):  # pragma: no cover - gpu
    claim = {"unit": "FLOP/s", "better": "higher", "goal": (">=", goal)}
    if rival not in run.sides:
        return b.not_run(name, sentence, why=f"{rival} is not here", **claim)
    measured = run.figures("triton", rival, work=work)
    return b.claim(
        name, sentence, measured=measured, bound=b.ceilings.bf16 / measured["baseline"].value, **claim
    )


def alike(want, got):  # pragma: no cover - gpu
    """bfloat16 results of different kernels, or lists of their gradients."""
    pairs = [(want, got)] if isinstance(want, torch.Tensor) else zip(want, got, strict=True)
    return all((a - c).abs().max() <= 0.05 * a.abs().max() for a, c in pairs)


def rivals(b, kernel, q, k, v):  # pragma: no cover - gpu
    """{name: call} that computes causal attention of these."""
    reach = causal(q.size(2), q.device)
    look = torch.ones(q.size(2), q.size(2), dtype=torch.bool, device=q.device).tril()

    def sdpa(backend):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    found = {"triton": lambda: kernel.flash(q, k, v, reach),
             "SDPA-flash": lambda: sdpa(SDPBackend.FLASH_ATTENTION),
             "cuDNN": lambda: sdpa(SDPBackend.CUDNN_ATTENTION),
             "FlexAttention": flex(q, k, v),
             "materialised": lambda: tiled.materialised(q, k, v, look)}  # fmt: skip
    tutorial = tutorial_of(b)
    if tutorial:
        found["Triton's tutorial"] = lambda: tutorial(q, k, v, True, q.size(-1) ** -0.5, False)
    return found


def flex(q, k, v):  # pragma: no cover - gpu
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    T, compiled = q.size(2), torch.compile(flex_attention)
    blocks = create_block_mask(lambda b, h, i, j: i >= j, None, None, T, T, device=q.device)
    return lambda: compiled(q, k, v, block_mask=blocks)


def tutorial_of(b):  # pragma: no cover - gpu
    """`attention` of Triton's own tutorial, as it ships, from $THIRTY_RIVALS/triton; None where it is not."""
    folder = b.rival("triton")
    path = folder and folder / "python" / "tutorials" / "06-fused-attention.py"
    if not path or not path.exists():
        return None
    spec = importlib.util.spec_from_file_location("fused_attention", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.attention


def bench_memory(b, kernel):  # pragma: no cover - gpu
    T = b.pick(smoke=1024, quick=4096, full=4096)
    q, k, v = inputs(1, 16, 16, T, 128, device=b.device, dtype=torch.bfloat16)
    look = torch.ones(T, T, dtype=torch.bool, device=b.device).tril()
    kernel.flash(q, k, v, causal(T, b.device))  # tuned before it is measured
    ours = peak_of(lambda: kernel.flash(q, k, v, causal(T, b.device)), b.device)
    theirs = peak_of(lambda: tiled.materialised(q, k, v, look), b.device)
    name, sentence, goal = MEMORY
    b.claim(name, sentence, unit="bytes", better="lower", goal=("<=", goal),
            measured=values("triton", [ours], "materialised", [theirs]))  # fmt: skip


def bench_error(b, kernel):  # pragma: no cover - gpu
    found = {"triton": [], "SDPA-flash": []}
    for seed in range(8):
        q, k, v = inputs(1, 4, 4, 1024, 128, device=b.device, dtype=torch.bfloat16, seed=seed)
        want = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            torchs = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        for name, y in (("triton", kernel.flash(q, k, v, causal(1024, b.device))), ("SDPA-flash", torchs)):
            found[name].append((y - want).abs().max().item())
    name, sentence, goal = ERROR
    b.claim(name, sentence, unit="largest error", better="lower", goal=("<=", goal),
            measured=values("triton", found["triton"], "SDPA-flash", found["SDPA-flash"]))  # fmt: skip
