"""The chains as C++ for a CPU: a loop each, over rows that stay in the cache, built on first use.

Before: `chains.py`. New here: `cpp/*.cpp`, where each chain is one loop, and torch's own dispatcher as the
binding (`TORCH_LIBRARY`): no line of pybind, a call costs two microseconds, and `torch.compile` sees one
node, because each operation says what shape comes out (`register_fake`). Gradients: `autograd.Function`.

`kernels()` compiles once (half a minute; as many processes as there are cores) and keeps the result where
torch keeps extensions, under a name made of the sources, the compiler's flags and torch's version."""

import functools
import hashlib
import shutil
from pathlib import Path

import torch
from torch.autograd.function import once_differentiable
from torch.utils import cpp_extension

from common.errors import demand

from .chains import Kernels, check_targets, counted

SOURCES = sorted((Path(__file__).parent / "cpp").glob("*.cpp"))
# What a vector holds, by what torch found the processor to be; elsewhere the compiler's own choice.
VECTORS = {"AVX512": ["-march=x86-64-v4", "-mprefer-vector-width=512"], "AVX2": ["-march=x86-64-v3"]}


def flags():
    """-fopenmp is for compiling only: the threads are those that torch has started already."""
    own = VECTORS.get(torch.backends.cpu.get_cpu_capability(), [])
    return ["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", *own]


def name():
    """`thirty_` and what the result depends on, as one number."""
    parts = [path.read_bytes() for path in (*SOURCES, *(SOURCES[0].parent.glob("*.h")))]
    about = " ".join([*flags(), torch.__version__]).encode()
    return "thirty_" + hashlib.sha256(b"\0".join([about, *parts])).hexdigest()[:12]


@functools.cache
def kernels():
    """All of them, as `fused.fuse` takes them. UserError where there is no C++ compiler or no ninja."""
    folder = Path(cpp_extension.get_default_build_root()) / name()
    if (folder / "done").exists():
        torch.ops.load_library(folder / f"{name()}.so")
    else:
        build(folder)
    fakes()
    chains = rms_norm, add_rms_norm, rotate, swiglu, softmax, cross_entropy, rows, gradient_
    return Kernels("cpu", *chains, torch.ops.thirty.product.default, torch.ops.thirty.gated.default)


def build(folder):
    """Compile the sources into a folder, and load what comes of it."""
    compiler = cpp_extension.get_cxx_compiler()
    demand(shutil.which(compiler), f"no C++ compiler ({compiler}): install g++, or name one in CXX; without "
           "it chains.py does the same, slowly")  # fmt: skip
    demand(cpp_extension.is_ninja_available(), "ninja, which starts the compiler, is not installed: it is in "
           "the extra kernels")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    cpp_extension.load(name(), [str(path) for path in SOURCES], extra_cflags=flags(), is_python_module=False,
                       build_directory=str(folder))  # fmt: skip
    (folder / "done").touch()


@functools.cache
def fakes():
    """What comes out of each operation, for those who ask without computing: torch.compile, torch.export."""
    wide = lambda x: torch.promote_types(x.dtype, torch.float32)  # noqa: E731
    per_row = lambda x: x.new_empty(x.shape[:-1].numel(), dtype=wide(x))  # noqa: E731
    like = torch.empty_like
    for op, result in {
        "rms_norm": lambda x, weight, eps: (like(x), per_row(x)),
        "add_rms_norm": lambda x, residual, weight, eps: (like(x), like(x), per_row(x)),
        "rms_norm_backward": lambda dy, dtotal, total, weight, rstd: (like(total), like(weight)),
        "rotate": lambda qkv, cos, sin, turned, back: like(qkv),
        "swiglu": lambda x: x.new_empty(*x.shape[:-1], x.size(-1) // 2),
        "swiglu_backward": lambda dy, x: like(x),
        "softmax": lambda x: like(x),
        "softmax_backward": lambda dy, y: like(y),
        "cross_entropy": lambda logits, targets: (per_row(logits), per_row(logits)),
        "cross_entropy_backward": lambda logits, targets, lse, scale, out: None,
        "adamw_": lambda *a: None,
        "product": lambda x, w: x.new_empty(*x.shape[:-1], len(w)),
        "gated": lambda x, gate, up: x.new_empty(*x.shape[:-1], len(gate)),
    }.items():
        torch.library.register_fake(f"thirty::{op}", result)


# ---- the operations: each a pair of calls, where gradients are asked for; else the first alone ----


def rms_norm(x, weight, eps):
    """As `chains.rms_norm`."""
    if torch.is_grad_enabled():
        return Norm.apply(x, None, weight, eps)[0]
    return torch.ops.thirty.rms_norm.default(x, weight, eps)[0]


def add_rms_norm(x, residual, weight, eps):
    """As `chains.add_rms_norm`."""
    if torch.is_grad_enabled():
        return Norm.apply(x, residual, weight, eps)
    return torch.ops.thirty.add_rms_norm.default(x, residual, weight, eps)[:2]


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, weight, eps):
        if residual is None:
            (y, rstd), total = torch.ops.thirty.rms_norm(x, weight, eps), x.contiguous()
        else:
            y, total, rstd = torch.ops.thirty.add_rms_norm(x, residual, weight, eps)
        ctx.save_for_backward(total, weight.contiguous(), rstd)
        ctx.alone = residual is None
        return y, None if ctx.alone else total

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dtotal):
        dx, dweight = torch.ops.thirty.rms_norm_backward(dy, dtotal, *ctx.saved_tensors)
        return dx, None if ctx.alone else dx, dweight, None


def rotate(qkv, rope, turned):
    """As `chains.rotate`."""
    cos, sin = rope
    if torch.is_grad_enabled():
        return Rotate.apply(qkv, cos, sin, turned)
    return torch.ops.thirty.rotate.default(qkv, cos, sin, turned, False)


class Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, cos, sin, turned):
        ctx.save_for_backward(cos, sin)
        ctx.turned = turned
        return torch.ops.thirty.rotate(qkv, cos, sin, turned, False)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # the inverse of a turn is its transpose: the same turn, backwards
        return torch.ops.thirty.rotate(dy, *ctx.saved_tensors, ctx.turned, True), None, None, None


def pair(forward, backward, keep):
    """A Function of one tensor from the names of two operations; backward gets its input or its output."""

    class Pair(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = getattr(torch.ops.thirty, forward)(x)
            ctx.save_for_backward(x if keep == "input" else y)
            return y

        @staticmethod
        @once_differentiable
        def backward(ctx, dy):
            return getattr(torch.ops.thirty, backward)(dy, *ctx.saved_tensors)

    return Pair


SwiGLU = pair("swiglu", "swiglu_backward", keep="input")
Softmax = pair("softmax", "softmax_backward", keep="output")


def swiglu(x):
    """As `chains.swiglu`."""
    return SwiGLU.apply(x) if torch.is_grad_enabled() else torch.ops.thirty.swiglu.default(x)


def softmax(x):
    """As `chains.softmax`."""
    return Softmax.apply(x) if torch.is_grad_enabled() else torch.ops.thirty.softmax.default(x)


def rows(logits, targets):
    """As `chains.rows`; IndexError for a target that is no class."""
    check_targets(logits, targets)
    return torch.ops.thirty.cross_entropy(logits, targets)


def gradient_(logits, targets, lse, scale):
    """As `chains.gradient_`."""
    scale = scale.to(lse.dtype).expand(len(targets)).contiguous()
    torch.ops.thirty.cross_entropy_backward(logits, targets.contiguous(), lse, scale, logits)
    return logits


def cross_entropy(logits, targets):
    """As `chains.cross_entropy`."""
    check_targets(logits, targets)
    return CrossEntropy.apply(logits, targets).sum() / counted(targets)


class CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets):
        logits, targets = logits.contiguous(), targets.contiguous()
        loss, lse = torch.ops.thirty.cross_entropy(logits, targets)
        ctx.save_for_backward(logits, targets, lse)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        logits, targets, lse = ctx.saved_tensors
        out = torch.empty_like(logits)
        scale = dloss.to(lse.dtype).contiguous()  # may be one number, expanded
        torch.ops.thirty.cross_entropy_backward(logits, targets, lse, scale, out)
        return out, None


class AdamW(torch.optim.Optimizer):
    """As torch.optim.AdamW, all parameters of a group in one call."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        kernels()
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        """One update of everything that has a gradient."""
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            for p in trained:
                if not self.state[p]:
                    self.state[p] = {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                self.state[p]["step"] += 1
            for step in {self.state[p]["step"] for p in trained}:
                now = [p for p in trained if self.state[p]["step"] == step]
                moments = ([self.state[p][key] for p in now] for key in "mv")
                torch.ops.thirty.adamw_(now, [p.grad for p in now], *moments, group["lr"], *group["betas"],
                                        group["eps"], group["weight_decay"], step)  # fmt: skip
