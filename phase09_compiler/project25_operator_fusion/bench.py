"""Measure the claims: each operation beside inductor, decoding, memory, compile time, breaks, ONNX."""

import tempfile
from pathlib import Path

import torch

from common.benchmark import values
from common.cli import launch
from common.cli.bench import bench
from common.profiling import peak_of
from common.training import parameter_groups
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, StaticCache, caches_for, decode

from . import _gpu, _onnx, _torchscript, cpp_ops
from ._breaks import CAUSES, explained
from ._each import bench_operations, counts_of
from ._sides import call_of, compiled, head_and_loss, kernels, models, operations, same_choice, step_of
from .linear_cross_entropy import linear_cross_entropy

STEPS = {"unit": "steps/s", "better": "higher"}


class Trial:
    """What the claims share: the base model as it is and fused, a prompt, a place for files."""

    def __init__(self, b):
        self.b, self.device, self.say = b, b.device, b.say
        self.ops = kernels(b.say)
        self.ready = self.ops.device == "cpu" and b.device.type == "cpu"
        self.folder, self.plain, self.fused = models("", self, self.ops)
        self.T = b.pick(smoke=8, quick=64, full=64)
        self.prompt = torch.arange(self.T, device=b.device)[None] % self.plain.config.vocab_size


def bench_decode(b, t):
    """Text of one user, token by token, with project 8's cache: its products are the larger part of it."""
    n = b.pick(smoke=4, quick=64, full=128)

    def side(model):
        return lambda: decode(model, t.prompt, n, caches_for(model, KVCache, 1, t.T + n))

    models_ = {"eager": t.plain, "fused": t.fused}
    run = b.compare(
        {name: side(model) for name, model in models_.items()},
        memory=False,
        check=same_choice(t.plain, t.prompt),
        budget=b.pick(smoke=0.5, quick=15, full=180),
        counts={name: counts_of(step_of(model, t.prompt)) for name, model in models_.items()},
    )
    held = sum(p.nbytes for p in t.plain.parameters())
    b.claim(
        "decode",
        "Decoding for one user is at least 1.15 times as fast with fused operations, and writes the same",
        headline=True,
        unit="tok/s",
        better="higher",
        goal=(">=", 1.15),
        measured=run.figures("fused", work=n),
        bound=run.sides["eager"].median / n * b.ceilings.read / held,
        settings={"prompt": t.T, "new": n, "weights, bytes": held},
        why="the bound: all weights pass by once in a step, at the speed at which this machine reads memory; "
        "where they stay in the cache it can be passed",
    )
    return run


def bench_steps(b, t):
    """One step at one place: TorchScript, and torch.compile with a static cache."""
    history, said = _torchscript.steps(t.plain, t.prompt)
    b.say(f"TorchScript: {said['deprecated']}\nof the model itself: {said.get('refused', 'not refused')}")
    sides = {**history, "eager": step_of(t.plain, t.prompt), "fused": step_of(t.fused, t.prompt)}
    run = b.compare(sides, check=1e-3, memory=False, budget=b.pick(smoke=0.5, quick=8, full=60))
    for name in history:
        b.claim(
            f"torchscript-{name}",
            f"A fused step is at least as fast as one that is {name} by TorchScript",
            **STEPS,
            goal=(">=", 1.0),
            measured=run.figures("fused", name, work=1),
            settings={"eager, steps/s": 1 / run.sides["eager"].median, **said},
            why="TorchScript on a CPU takes Python away, and leaves every kernel as it is",
        )
    sentence = "A fused step is at least 0.85 times as fast as the whole step compiled by inductor"
    if b.mode != "full":
        return b.not_run(
            "compiled", sentence, **STEPS, goal=(">=", 0.85), why="only a full bench compiles it"
        )
    caches, place = caches_for(t.plain, StaticCache, 1, t.T + 1), torch.tensor([[t.T]])
    with torch.no_grad():
        t.plain.hidden(t.prompt, positions=torch.arange(t.T)[None], caches=caches)
    quick = compiled(t.plain)

    @torch.no_grad()
    def theirs():
        return quick(t.prompt[:, -1:], positions=place, caches=caches)

    run = b.compare(
        {"inductor": theirs, "fused": step_of(t.fused, t.prompt)}, check=1e-3, memory=False, budget=60
    )
    return b.claim("compiled", sentence, **STEPS, goal=(">=", 0.85), measured=run.figures("fused", work=1),
                   why="inductor's products are those of eager; ours are a loop of our own")  # fmt: skip


def bench_memory(b, t):
    """Head and loss, forward and backward: what is held at the most."""
    N, V = b.pick(smoke=(32, 100), quick=(1024, 10_000), full=(4096, 10_000))
    _, _, given, _ = operations(t.ops, 4 * N, V=V)["linear-cross-entropy"]
    rows = b.pick(smoke=8, quick=128, full=256)
    chunked = lambda h, w, targets: linear_cross_entropy(h, w, targets, t.ops, rows)  # noqa: E731
    held = {}
    for name, fn in (("logits at once", head_and_loss), ("chunks", chunked)):
        call = call_of(fn, given, 2)
        call()
        held[name] = peak_of(call, b.device)
    least = sum(x.nbytes for x in given[:2])  # the gradients, which somebody asked for
    b.claim(
        "memory",
        "Head and cross-entropy in chunks hold at most 0.3 of what they hold at once",
        unit="bytes",
        better="lower",
        goal=("<=", 0.3),
        measured=values("chunks", [held["chunks"]], "logits at once", [held["logits at once"]]),
        bound=least / held["logits at once"],
        prediction=(least + 2 * 4 * rows * V) / held["logits at once"],
        settings={"tokens": N, "ids": V, "rows of a chunk": rows},
        why="the bound is the gradients of states and weight alone",
    )


def bench_training(b, t):
    """One update: loss and gradients of the model, and AdamW."""
    if not t.ready:
        return None
    B, T = b.pick(smoke=(1, 8), quick=(2, 128), full=(8, 256))
    tokens = torch.randint(t.plain.config.vocab_size, (B, T + 1), generator=torch.Generator().manual_seed(0))
    x, y = tokens[:, :-1], tokens[:, 1:].flatten()

    def side(model, kind, loss):
        optimizer = kind(parameter_groups(model, 0.1), lr=0.0)  # nothing moves, so that both always agree

        def update():
            value = loss(model.hidden(x).flatten(0, 1), model.head.weight, y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            return value.detach()

        return update

    sides = {
        "eager": side(t.plain, torch.optim.AdamW, head_and_loss),
        "fused": side(t.fused, cpp_ops.AdamW, lambda h, w, y: linear_cross_entropy(h, w, y, t.ops)),
    }
    run = b.compare(sides, check=1e-4, budget=b.pick(smoke=0.5, quick=10, full=120))
    for p in (*t.plain.parameters(), *t.fused.parameters()):
        p.grad = None
    return b.claim(
        "training",
        "An update of training is at least as fast",
        unit="tok/s",
        better="higher",
        goal=(">=", 1.0),
        measured=run.figures("fused", work=B * T),
        settings={"rows": B, "tokens": T},
        why="most of an update is products, which stay as they are (Amdahl)",
    )


def bench_compile(b, t):
    """Building from nothing: our kernels once for all models, inductor for each."""
    sentence = "Building all C++ kernels, once, takes at most as long as inductor takes to compile one step"
    goal = {"unit": "s", "better": "lower", "goal": ("<=", 1.0)}
    if b.mode != "full" or not t.ready:
        return b.not_run("compile", sentence, **goal, why="only a full bench builds with empty caches")
    found = {}
    for what in ("inductor", "cpp"):
        with tempfile.TemporaryDirectory() as folder:
            caches = {"TORCH_EXTENSIONS_DIR": folder, "TORCHINDUCTOR_CACHE_DIR": folder}
            code = launch.start(f"{__package__}._build", [what, f"{folder}/seconds"], env=caches)
            if code:
                return b.not_run("compile", sentence, **goal, why=f"building {what} ended with code {code}")
            found[what] = float(Path(f"{folder}/seconds").read_text(encoding="utf-8"))
    return b.claim("compile", sentence, **goal, measured=values("C++", [found["cpp"]], "inductor",
                                                                [found["inductor"]]))  # fmt: skip


def bench_breaks(b, t):
    """Graph breaks, by name; the fused model has none."""
    with torch.no_grad():
        x, w = torch.randn(4, 16), torch.randn(16, 16)
        found = {name: explained(fn, x, w) for name, fn in CAUSES.items()}
        graphs, cuts, why = explained(t.fused, t.prompt)
    torch._dynamo.reset()
    b.claim(
        "breaks",
        "torch.compile takes the fused model as one graph: graph breaks",
        unit="breaks",
        better="lower",
        goal=("<=", 0),
        measured=values("fused", [float(cuts)]),
        settings={"graphs": graphs, **{f"{name}: breaks": row[1] for name, row in found.items()}},
        why="; ".join(why)
        or "each operation says what shape comes out; what breaks elsewhere: "
        + ", ".join(name for name, row in found.items() if row[1]),
    )


def bench_onnx(b, t):
    """Nodes of the model's ONNX graph before and after ONNX Runtime's fusion."""
    sentence = "ONNX Runtime's fusion leaves at most 0.9 of the nodes of the exported model"
    goal = {"unit": "nodes", "better": "lower", "goal": ("<=", 0.9)}
    if not (b.library("onnx") and b.library("onnxruntime") and b.library("onnxscript")):
        return b.not_run("onnx", sentence, **goal, why="onnxruntime is not installed: the extra export")
    with tempfile.TemporaryDirectory() as folder:
        counts, errors = _onnx.fusion(t.plain, Path(folder))
    total = {name: sum(kinds.values()) for name, kinds in counts.items()}
    least = min(("basic", "extended", "transformers"), key=total.get)
    return b.claim(
        "onnx",
        sentence,
        **goal,
        measured=values(least, [total[least]], "exported", [total["exported"]]),
        settings={
            **{f"nodes, {name}": n for name, n in total.items()},
            **{
                f"{name}: {kind}": n
                for name in ("exported", "transformers")
                for kind, n in counts[name].most_common(5)
            },
            "largest error of a logit": max(errors.values()),
        },
        why="its patterns are those of older models: norms it knows, RoPE and this SwiGLU it leaves",
    )


def main(b):
    t = Trial(b)
    if b.device.type == "cpu":
        bench_decode(b, t)
        bench_steps(b, t)
        bench_operations(b, t)
        bench_training(b, t)
        bench_compile(b, t)
        bench_onnx(b, t)
        bench_breaks(b, t)
    bench_memory(b, t)
    _gpu.bench_gpu(b, t)


def profiled(b):
    t = Trial(b)
    return step_of(t.fused, t.prompt)


if __name__ == "__main__":
    bench(main, profiled)
