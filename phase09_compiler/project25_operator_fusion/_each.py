"""The part of the bench that holds each operation against inductor's."""

from time import perf_counter

import torch

from ._sides import call_of, compiled, operations, updates
from .traffic import Traffic

SPEED = {"unit": "calls/s", "better": "higher"}
NAMES = {"norm": "the residual sum and RMSNorm", "rope": "RoPE", "swiglu": "SwiGLU", "softmax": "softmax",
         "cross-entropy": "cross-entropy, with its gradient",
         "linear-cross-entropy": "head and cross-entropy in chunks, with both gradients"}  # fmt: skip


def counts_of(call):
    with Traffic() as found:
        call()
    return {"kernels": found.kernels.total(), "bytes": found.bytes}


def bench_operations(b, t):
    """Each operation for a batch of tokens, beside eager and inductor; a sweep over tokens for the first."""
    goal, spent = (">=", 0.95), {}
    for name, what in NAMES.items():
        sentence = f"Fused, {what}: at least 0.95 times as fast as inductor's"
        if not t.ready:
            b.not_run(f"op-{name}", sentence, **SPEED, goal=goal, why="no C++ kernels here")
            continue

        usual = b.pick(smoke=0.2, quick=2, full=30)

        def at(T, name=name, budget=usual):
            eager, fused, inputs, gradients = operations(t.ops, T)[name]
            torch._dynamo.reset()
            sides = {
                "inductor": call_of(compiled(eager), inputs, gradients),
                "eager": call_of(eager, inputs, gradients),
                "fused": call_of(fused, inputs, gradients),
            }
            spent[name, T] = first_call(sides["inductor"])
            return b.compare(
                sides,
                check=1e-3,
                memory=False,
                budget=budget,
                counts={side: counts_of(sides[side]) for side in ("eager", "fused")},
            )

        T = b.pick(smoke=8, quick=512, full=2048)
        run, settings = at(T), {}
        if b.mode == "full":
            settings["sweep"] = b.sweep("tokens", (1, 16, 256, 4096), lambda n: at(n, budget=6), "fused")
        b.claim(
            f"op-{name}",
            sentence,
            **SPEED,
            goal=goal,
            measured=run.figures("fused", work=1),
            settings={
                "tokens": T,
                "times eager": run.speedup("fused", "eager")[0],
                "seconds to compile, inductor": spent[name, T],
                **settings,
            },
            why="both move the same bytes; a call of ours costs microseconds, inductor's checks more",
        )
    bench_adamw(b, t, goal)


def first_call(call):
    """Seconds of a call that compiles."""
    started = perf_counter()
    call()
    return perf_counter() - started


def bench_adamw(b, t, goal):
    sentence = "Fused, AdamW over the model's parameters: at least 0.95 times as fast as inductor's"
    if not t.ready:
        return b.not_run("op-adamw", sentence, **SPEED, goal=goal, why="no C++ kernels here")
    torch._dynamo.reset()
    most = b.pick(smoke=3, quick=12, full=1000)
    shapes = [p.shape for p in t.plain.parameters()][:most]
    sides = updates(t.ops, shapes)
    seconds = first_call(sides["inductor"])
    sides["eager"](), sides["fused"]()
    run = b.compare(sides, check=1e-5, memory=False, budget=b.pick(smoke=0.2, quick=3, full=40))
    return b.claim(
        "op-adamw",
        sentence,
        **SPEED,
        goal=goal,
        measured=run.figures("fused", work=1),
        settings={
            "parameters": sum(shape.numel() for shape in shapes),
            "seconds to compile": seconds,
            "times eager": run.speedup("fused", "eager")[0],
        },
        why="both read four numbers and write three for each parameter",
    )
