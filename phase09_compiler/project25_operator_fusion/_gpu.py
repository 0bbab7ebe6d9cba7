"""What is measured on a GPU alone: Triton kernels beside a copy, torch.compile and Liger; an update."""

import torch

from common.benchmark import values
from common.model import GPT, ModelConfig
from common.profiling import peak_of
from common.training import parameter_groups

from ._sides import call_of, compiled, head_and_loss, operations
from .chains import Kernels
from .fused import fuse
from .linear_cross_entropy import linear_cross_entropy

KERNELS = ("norm", "rope", "swiglu", "softmax", "cross-entropy")
LIGER = {"norm", "swiglu", "cross-entropy"}  # those that have a counterpart with the same meaning there
BYTES = {"unit": "bytes/s", "better": "higher"}
STEPS = {"unit": "updates/s", "better": "higher"}
# (id, sentence, unit and direction, goal)
CLAIMS = (
    *(
        (
            f"gpu-{name}-copy",
            f"On a GPU the {name} kernel moves at least 0.85 of the bytes that a copy moves",
            BYTES,
            (">=", 0.85),
        )
        for name in KERNELS
    ),
    *(
        (
            f"gpu-{name}-compiled",
            f"On a GPU the {name} kernel is at least as fast as torch.compile's",
            BYTES,
            (">=", 1.0),
        )
        for name in KERNELS
    ),
    *(
        (
            f"gpu-{name}-liger",
            f"On a GPU the {name} kernel is at least as fast as Liger's",
            BYTES,
            (">=", 1.0),
        )
        for name in KERNELS
        if name in LIGER
    ),
    ("gpu-training-eager", "On a GPU an update is at least 1.2 times as fast as eager", STEPS, (">=", 1.2)),
    (
        "gpu-training-compiled",
        "On a GPU an update is at least 1.03 times as fast as compiled",
        STEPS,
        (">=", 1.03),
    ),
    (
        "gpu-linear-cross-entropy",
        "On a GPU head and loss in chunks are not slower than eager",
        STEPS,
        (">=", 1.0),
    ),
    (
        "gpu-memory",
        "On a GPU head and loss in chunks hold at most 0.25 of eager's memory",
        {"unit": "bytes", "better": "lower"},
        ("<=", 0.25),
    ),
)


def bench_gpu(b, t):
    """The claims about a GPU; where there is none, each of them says so."""
    if b.device.type == "cuda":  # pragma: no cover - gpu
        return measure(b)
    for name, sentence, kind, goal in CLAIMS:
        b.not_run(name, sentence, **kind, goal=goal, why="no CUDA device")


def kernels():
    """The Triton kernels, as `fused.fuse` takes them."""
    from . import triton_cross_entropy as ce
    from . import triton_norm, triton_rope, triton_rows, triton_softmax, triton_swiglu

    return Kernels(
        triton_rows.DEVICE,
        triton_norm.rms_norm,
        triton_norm.add_rms_norm,
        triton_rope.rotate,
        triton_swiglu.swiglu,
        triton_softmax.softmax,
        ce.cross_entropy,
        ce.rows,
        ce.gradient_,
    )


def measure(b):  # pragma: no cover - gpu
    ops = kernels()
    T = b.pick(smoke=256, quick=16_384, full=16_384)
    for name in KERNELS:
        bench_kernel(b, ops, name, T)
    bench_head(b, ops, T // 2)
    bench_training(b, ops)


def claim(b, name, measured, **more):  # pragma: no cover - gpu
    sentence, kind, goal = next(rest for known, *rest in CLAIMS if known == name)
    b.claim(name, sentence, **kind, goal=goal, measured=measured, **more)


def bench_kernel(b, ops, name, T):  # pragma: no cover - gpu
    """Bytes in and out, once each, over the time: beside a copy of as many bytes, and the rivals."""
    eager, ours, inputs, gradients = operations(ops, T, C=4096, d_ff=11_008, V=32_000, heads=32, groups=8)[
        name
    ]
    half = lambda x: x.to(b.device, torch.bfloat16 if x.is_floating_point() else x.dtype)  # noqa: E731
    inputs = [x.to(b.device) if name == "rope" and i else half(x) for i, x in enumerate(inputs)]
    sides = {
        "compiled": call_of(compiled(eager), inputs, gradients),
        "eager": call_of(eager, inputs, gradients),
        "triton": call_of(ours, inputs, gradients),
    }
    results = sides["triton"]()
    results = results if isinstance(results, tuple) else (results,)
    work = (
        sum(x.nbytes for x in (*inputs, *results)) + gradients * inputs[0].nbytes
    )  # the logits are read twice
    source = torch.empty(work // 2, dtype=torch.uint8, device=b.device)
    target = torch.empty_like(source)
    if name in LIGER and b.library("liger-kernel"):
        sides["liger"] = call_of(liger(name), inputs, gradients)
    run = b.compare(sides, check=close)
    copy = b.compare({"copy": lambda: target.copy_(source), "again": lambda: target.copy_(source)},
                     check=lambda *_: True)  # fmt: skip
    speeds = [work / s for s in run.sides["triton"].seconds]
    rate = work / copy.sides["copy"].median
    claim(b, f"gpu-{name}-copy", values("triton", speeds, "copy", [rate] * len(speeds)), bound=1.0)
    for rival in ("compiled", "liger"):
        if rival in run.sides:
            claim(b, f"gpu-{name}-{rival}", run.figures("triton", rival, work=work))
        elif name in LIGER:
            sentence, kind, goal = next(rest for known, *rest in CLAIMS if known == f"gpu-{name}-liger")
            b.not_run(f"gpu-{name}-liger", sentence, **kind, goal=goal, why="liger-kernel is not installed")


def close(want, got):  # pragma: no cover - gpu
    """bfloat16 results of different kernels."""
    pairs = zip(want, got, strict=True) if isinstance(want, tuple) else [(want, got)]
    return all((a - c).abs().max() <= 0.02 * a.abs().max() + 1e-6 for a, c in pairs)


def liger(name):  # pragma: no cover - gpu
    """Liger's kernel as a function of our inputs."""
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction
    from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return {"norm": lambda x, r, w: LigerFusedAddRMSNormFunction.apply(x, r, w, 1e-5)[:2],
            "swiglu": lambda x: LigerSiLUMulFunction.apply(*(part.contiguous() for part in x.chunk(2, -1))),
            "cross-entropy": lambda x, t: LigerCrossEntropyFunction.apply(x.clone(), t, None, -100)[0],
            }[name]  # fmt: skip


def bench_head(b, ops, N):  # pragma: no cover - gpu
    _, _, inputs, _ = operations(ops, 4 * N, C=2048, V=128_256)["linear-cross-entropy"]
    inputs = [x.to(b.device, torch.bfloat16 if x.is_floating_point() else x.dtype) for x in inputs]
    ours = lambda h, w, t: linear_cross_entropy(h, w, t, ops, 1024)  # noqa: E731
    sides = {"eager": call_of(head_and_loss, inputs, 2), "triton": call_of(ours, inputs, 2)}
    run = b.compare(sides, check=close)
    claim(b, "gpu-linear-cross-entropy", run.figures("triton", work=1))
    held = {name: peak_of(call, b.device) for name, call in sides.items()}
    claim(b, "gpu-memory", values("triton", [held["triton"]], "eager", [held["eager"]]))


def bench_training(b, ops):  # pragma: no cover - gpu
    """An update of a model of some 120M weights in bfloat16: as it is, compiled, fused."""
    from . import triton_adamw

    config = ModelConfig(vocab_size=32_000, n_layer=12, n_head=12, n_kv_head=12, d_model=768, d_ff=2048,
                         max_seq_len=1024)  # fmt: skip
    tokens = torch.randint(config.vocab_size, (8, 1025), device=b.device)
    x, y = tokens[:, :-1], tokens[:, 1:].flatten()
    fast = lambda h, w, t: linear_cross_entropy(h, w, t, ops, 1024)  # noqa: E731

    def side(kind, loss, change=lambda m: m):
        torch.manual_seed(0)
        model = change(GPT(config).to(b.device, torch.bfloat16))
        hidden, optimizer = model.hidden, kind(parameter_groups(model, 0.1), lr=0.0)
        hidden = torch.compile(hidden) if loss is quick else hidden

        def update():
            value = loss(hidden(x).flatten(0, 1), model.head.weight, y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            return value.detach().float()

        return update

    quick = torch.compile(head_and_loss)
    run = b.compare(
        {
            "eager": side(torch.optim.AdamW, head_and_loss),
            "compiled": side(torch.optim.AdamW, quick),
            "triton": side(triton_adamw.AdamW, fast, lambda m: fuse(m, ops)),
        },
        check=0.05,
    )
    for rival in ("eager", "compiled"):
        claim(b, f"gpu-training-{rival}", run.figures("triton", rival, work=1))
