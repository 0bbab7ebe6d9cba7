"""What the scripts compare: each operation as PyTorch has it, compiled, and fused; and a step of decoding."""

import copy

import torch
import torch.nn.functional as F

from common import hub
from common.cli import chain
from common.errors import UserError
from common.model import rotate
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for

from . import chains, cpp_ops
from .fused import fuse
from .linear_cross_entropy import linear_cross_entropy

BACKEND = "inductor"  # of torch.compile


def kernels(say):
    """The C++ kernels; where they cannot be built the chains of PyTorch, and a line that says why."""
    try:
        return cpp_ops.kernels()
    except UserError as error:
        say(f"{error}: the chains of PyTorch run in their place, so there is nothing to gain")
        return chains.KERNELS


def models(config_model, run, what):
    """(folder, the model, the same fused)"""
    folder = chain.find("base", config_model, say=run.say)
    plain = hub.load(folder, device=run.device).eval()
    return folder, plain, fuse(copy.deepcopy(plain), what)


def step_of(model, prompt):
    """A call that reads one token after a prompt (1, T), always at the same place: logits (1, 1, V)."""
    caches = caches_for(model, KVCache, 1, prompt.size(1) + 1)
    token, place = prompt[:, -1:], prompt.size(1)
    with torch.no_grad():
        model.hidden(prompt, caches=caches)

    @torch.no_grad()
    def step():
        for cache in caches:
            cache.length = place
        return model(token, caches=caches)

    return step


def compiled(fn):
    """The rival: one graph, for these shapes."""
    return torch.compile(fn, backend=BACKEND, dynamic=False, fullgraph=True)


# ---- the operations: {name: (as PyTorch has it, fused, inputs, and the gradients too?)} ----


def add_norm(x, residual, weight):
    total = x + residual
    return F.rms_norm(total, weight.shape, weight, 1e-5), total


def silu_times(x):
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def turned(qkv, cos, sin, heads):
    """What `Attention.project` does with q and k, as one function."""
    x = qkv.unflatten(-1, (-1, 2 * cos.size(-1))).transpose(1, 2)  # (B, N, T, D)
    done = torch.cat((rotate(x[:, :heads], (cos, sin)), x[:, heads:]), 1)
    return done.transpose(1, 2).flatten(2)


def head_and_loss(hidden, weight, targets):
    return F.cross_entropy(hidden @ weight.T, targets)


def operations(ops, T, C=256, d_ff=640, V=10_000, heads=8, groups=4, seed=0):
    """{name: (PyTorch's function, ours, tensors, how many of them get gradients)} for T tokens."""
    draw, D = torch.Generator().manual_seed(seed), C // heads
    new = lambda *shape: torch.randn(shape, generator=draw)  # noqa: E731
    angles, few = new(1, T, D // 2), max(1, T // 4)
    rope, targets = (angles.cos(), angles.sin()), torch.randint(V, (few,), generator=draw)
    return {
        "norm": (add_norm, lambda x, r, w: ops.add_rms_norm(x, r, w, 1e-5),
                 (new(T, C), new(T, C), new(C)), 0),
        "rope": (lambda x, cos, sin: turned(x, cos, sin, heads + groups),
                 lambda x, cos, sin: ops.rotate(x, (cos, sin), heads + groups),
                 (new(1, T, (heads + 2 * groups) * D), *rope), 0),
        "swiglu": (silu_times, ops.swiglu, (new(T, 2 * d_ff),), 0),
        "softmax": (lambda x: x.softmax(-1), ops.softmax, (new(few, V),), 0),
        "cross-entropy": (F.cross_entropy, ops.cross_entropy, (new(few, V), targets), 1),
        "linear-cross-entropy": (head_and_loss, lambda h, w, t: linear_cross_entropy(h, w, t, ops),
                                 (new(few, C), new(V, C) / C**0.5, targets), 2),
    }  # fmt: skip


def call_of(fn, inputs, gradients):
    """A call without arguments: the results of fn, or its value and the gradients of the first inputs."""
    if not gradients:

        @torch.no_grad()
        def forward():
            return fn(*inputs)

        return forward
    wanted = [x.detach().clone().requires_grad_() for x in inputs[:gradients]]

    def both():
        value = fn(*wanted, *inputs[gradients:])
        return value.detach(), *torch.autograd.grad(value, wanted)

    return both


def updates(ops, shapes, seed=0):
    """{name: a call that updates parameters of these shapes once and returns them}: three AdamWs."""

    def made(kind, **more):
        draw = torch.Generator().manual_seed(seed)
        held = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
        for p in held:
            p.grad = torch.randn(p.shape, generator=draw)
        return held, kind(held, lr=1e-4, weight_decay=0.1, **more)

    def call(held, step):
        def update():
            step()
            return [p.detach() for p in held]

        return update

    (a, eager), (b, theirs), (c, ours) = made(torch.optim.AdamW), made(torch.optim.AdamW), made(cpp_ops.AdamW)
    quick = torch.compile(theirs.step, backend=BACKEND)
    return {"inductor": call(b, quick), "eager": call(a, eager.step), "fused": call(c, ours.step)}


def same_choice(model, prompt):
    """A check for two rows of new ids: equal, or parted where two ids were equally likely (within 1e-4)."""

    @torch.no_grad()
    def check(want, got):
        differ = (want != got).flatten().nonzero()
        if not len(differ):
            return True
        at = differ[0].item()
        logits = model(torch.cat((prompt, want[:, :at]), 1))[0, -1]
        return (logits[want[0, at]] - logits[got[0, at]]).abs().item() <= 1e-4

    return check
