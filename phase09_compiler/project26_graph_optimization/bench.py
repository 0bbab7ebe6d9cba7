"""Measure the claims: our passes beside eager, torch.compile and ONNX Runtime; what optimising costs and when
it pays; ONNX beside the model; every stack that is installed.
"""

import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import torch

from common.benchmark import values
from common.cli.bench import bench
from common.device import synchronize
from common.errors import UserError
from common.model import GPT, ModelConfig
from data.tinytown import TinyTown

from ._gpu import bench_gpu
from ._lab import Steps, built, paced, resident, weight_bytes
from .exporters import needed, no_past, to_onnx
from .optimise import Optimised
from .stacks import NEVER, STACKS, drift, make, present

SPEED = {"unit": "tok/s", "better": "higher"}


class Trial:
    """A model of one size with all its steps, made once; `seconds`: what making each took."""

    def __init__(self, b, name):
        tiny = {"d_model": 32, "d_ff": 48, "n_head": 4, "n_kv_head": 2, "vocab_size": 300}
        self.b, self.name, self.id = b, name, name.lower()
        self.model = built(name, **b.pick(smoke=tiny, quick={}, full={})).to("cpu")
        self.size = b.pick(smoke=32, quick=256, full=512)
        self.steps, self.seconds = Steps(self.model, self.size, self.size // 2), {}
        backend = b.pick(smoke="eager", quick="inductor", full="inductor")
        warmed(backend)
        start = time.perf_counter()
        self.ours = Optimised(self.model, self.steps.caches)
        self.seconds["ours"] = time.perf_counter() - start
        self.compiled = torch.compile(self.model, fullgraph=True, dynamic=False, backend=backend)
        torch._dynamo.reset()
        with torch._inductor.utils.fresh_cache():
            start = time.perf_counter()
            self.steps(self.compiled)
            self.seconds["inductor"] = time.perf_counter() - start

    def sides(self):
        return {
            "eager": lambda: self.steps(self.model).clone(),
            "torch.compile": lambda: self.steps(self.compiled).clone(),
            "ours": lambda: self.steps(self.ours).clone(),
        }

    def bound(self, seconds):
        """How many times as fast as `seconds` a step could be that only reads weights and cache, once."""
        held = sum(x.nbytes for c in self.steps.caches for x in (c.k, c.v)) // 2
        return seconds / ((weight_bytes(self.model) + held) / self.b.ceilings.read)


def warmed(backend):
    """Import what capture and the compiler need, on a model of nothing, so that neither is charged for it."""
    tiny = GPT(ModelConfig(vocab_size=8, n_layer=1, n_head=1, n_kv_head=1, d_model=8, d_ff=8, max_seq_len=8))
    Optimised(tiny)
    torch.compile(torch.sin, backend=backend)(torch.ones(3))


def ready(stack, held, ids):
    """A step of a stack that carries its cache along, behind `held` tokens, again and again the same."""
    stack.begin()
    for at, token in enumerate(ids[:held]):
        stack.step(token, at)
    kept = list(stack.past)

    def once():
        stack.past = kept
        return stack.step(ids[held], held)

    return once


def onnx_side(t, folder):
    """The same step in ONNX Runtime, or None where it is not installed."""
    try:
        stack = make("ONNX Runtime", t.model, folder, t.size)
    except UserError as error:
        t.b.say(f"ONNX Runtime: {error}")
        return None
    t.b.library("onnxruntime")
    return ready(stack, t.size // 2, t.steps.ids[0].tolist())


def bench_speed(b, t, headline):
    """One comparison of all four, and its claims."""
    with tempfile.TemporaryDirectory() as folder:
        onnx = onnx_side(t, Path(folder))
        sides = t.sides() | ({"ONNX Runtime": onnx} if onnx else {})
        run = b.compare(sides, check=1e-3, memory=False, budget=b.pick(smoke=0.5, quick=15, full=180))
    bound = t.bound(run.sides["eager"].median)
    kept = {"slots": t.size, "filled": t.size // 2, "calls a step": t.ours.plan.calls,
            "operations captured": t.ours.applied[0].computing, "in the end": t.ours.applied[-1].computing,
            "threads": torch.get_num_threads()}  # fmt: skip
    b.claim(f"eager-{t.id}", f"Our passes decode at least 1.5 times as fast as eager ({t.name}, batch 1)",
            goal=(">=", 1.5), bound=bound, headline=headline, measured=run.figures("ours", work=1),
            settings=kept, **SPEED,
            why="the bound reads weights and cache once, at the measured bandwidth")  # fmt: skip
    b.claim(f"compile-{t.id}", f"Ours is at least 0.85 times as fast as torch.compile ({t.name})",
            goal=(">=", 0.85), measured=run.figures("ours", "torch.compile", work=1), **SPEED)  # fmt: skip
    sentence = f"At least as fast as ONNX Runtime ({t.name})"
    if onnx:
        b.claim(f"onnx-{t.id}", sentence, goal=(">=", 1.0), **SPEED,
                measured=run.figures("ours", "ONNX Runtime", work=1))  # fmt: skip
    else:
        b.not_run(f"onnx-{t.id}", sentence, goal=(">=", 1.0), why="onnxruntime is not installed", **SPEED)
    return {name: side.median for name, side in run.sides.items()}


def bench_cost(b, t, medians):
    """What optimising takes, beside inductor with an empty cache; after how many calls each has paid."""
    spent = t.seconds
    b.claim(f"optimise-{t.id}", f"Capture and passes take at most a tenth of inductor's time ({t.name})",
            goal=("<=", 0.1), unit="s", better="lower",
            measured=values("ours", [spent["ours"]], "torch.compile", [spent["inductor"]]),
            settings={"of which torch.export": t.ours.capture_seconds,
                      "of which passes": sum(one.seconds for one in t.ours.applied),
                      "slowest pass": max(t.ours.applied, key=lambda one: one.seconds).name},
            why="inductor with an empty cache, as on the first start of a machine")  # fmt: skip
    calls = {name: paid(spent[key], medians["eager"], medians[name])
             for name, key in (("ours", "ours"), ("torch.compile", "inductor"))}  # fmt: skip
    sentence = f"Our passes have paid after at most 5,000 calls ({t.name})"
    settings = {"torch.compile pays after": calls["torch.compile"]}
    if calls["ours"] is None:
        b.not_run(f"pays-{t.id}", sentence, goal=("<=", 5000), unit="calls", better="lower",
                  why="our step is not faster than eager here, so it never pays")  # fmt: skip
        return
    b.claim(f"pays-{t.id}", sentence, goal=("<=", 5000), unit="calls", better="lower",
            measured=values("ours", [calls["ours"]]), settings=settings)  # fmt: skip


def paid(spent, before, after):
    """After how many calls `spent` seconds have come back; None: never."""
    return spent / (before - after) if after < before else None


@torch.no_grad()
def bench_parity(b, t):
    """ONNX with a cache and open sizes, in ONNX Runtime: prompts, chunks and single tokens."""
    sentence = "ONNX with a cache and open sizes gives the model's logits to 1e-4, whatever the sizes"
    goal, unit = ("<=", 1e-4), {"unit": "of a logit", "better": "lower"}
    if not (b.library("onnxruntime") and b.library("onnxscript")):
        b.not_run("parity", sentence, goal=goal, why="onnxruntime or onnxscript is not installed", **unit)
        return
    runtime = needed("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = to_onnx(t.model, Path(folder) / "model.onnx")
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names, worst = [entry.name for entry in session.get_inputs()], {}
        for B, chunks in ((1, (7, 1, 1)), (2, (5, 3, 1)), (3, (1, 4))):
            draw = torch.Generator().manual_seed(B)
            ids = torch.randint(t.model.config.vocab_size, (B, sum(chunks)), generator=draw)
            want, past, got = t.model(ids), no_past(t.model, B), []
            for chunk in ids.split(chunks, 1):
                feed = dict(zip(names, (chunk, *past), strict=True))
                logits, *past = session.run(None, {name: x.numpy() for name, x in feed.items()})
                past = [torch.from_numpy(x) for x in past]
                got.append(torch.from_numpy(logits))
            worst[f"{B} rows in chunks {chunks}"] = (torch.cat(got, 1) - want).abs().max().item()
    b.claim("parity", sentence, goal=goal, measured=values("largest difference", [max(worst.values())]),
            settings=worst, **unit)  # fmt: skip


# ---- stacks ----


def alone(name, size, folder, sizes, queue):
    """In a process of its own: bytes that a stack adds to the memory of a process that holds nothing else."""
    torch.set_num_threads(1)
    model = built(size, **sizes)
    before = resident()
    stack = make(name, model, folder, 64)
    for at in range(8):
        stack.step(at, at)
    queue.put(None if before is None else resident() - before)


def memory_of(name, size, folder, sizes):
    """See `alone`; None where it failed or the system does not say."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=alone, args=(name, size, folder, sizes, queue))
    process.start()
    process.join(300)
    return queue.get() if process.exitcode == 0 else None


def bench_stacks(b, t):
    """All stacks in turn over the same text, several times: tokens/s, drift, memory."""
    n, rounds = b.pick(smoke=6, quick=32, full=128), b.pick(smoke=1, quick=2, full=6)
    names = b.pick(smoke=("eager", "our passes"), quick=tuple(STACKS), full=tuple(STACKS))
    V = t.model.config.vocab_size
    ids = [token % V for token in TinyTown().text(4 * n).encode()][:n]
    kinds = "d_model", "d_ff", "n_head", "n_kv_head", "vocab_size"
    sizes = {key: getattr(t.model.config, key) for key in kinds}
    with tempfile.TemporaryDirectory() as folder:
        made, absent = present(t.model, folder, t.size, names)
        logits = {name: paced(stack, ids)[0] for name, stack in made.items()}
        seconds = {name: [] for name in made}
        for _ in range(rounds):
            for name, stack in made.items():
                synchronize(b.device)
                seconds[name].append(statistics.median(paced(stack, ids)[1]))
        table = {}
        for name in made:
            far, other = drift(logits[name], t.model, ids)
            held = memory_of(name, t.name, folder, sizes) if b.mode == "full" else None
            table[name] = {"ms": 1e3 * statistics.median(seconds[name]),
                           "tok/s": 1 / statistics.median(seconds[name]), "drift": far, "other tokens": other,
                           "MB": None if held is None else held / 1e6}  # fmt: skip
            b.say(f"  {name:20} {table[name]['ms']:8.2f} ms, drift {far:.1e}, another token in {other:.1%}")
    for name, why in absent.items():
        b.say(f"  {name}: absent, {why}")
    fastest = min((name for name in made if name != "our passes" and "int8" not in name),
                  key=lambda name: table[name]["ms"])  # fmt: skip
    b.claim(f"stacks-{t.id}", "Of all stacks in 32 bits that are here, ours is at least as fast as the "
            f"fastest other ({t.name})", goal=(">=", 1.0), **SPEED,
            measured=values("our passes", [1 / s for s in seconds["our passes"]], fastest,
                            [1 / s for s in seconds[fastest]]),
            settings={"fastest other": fastest, "tokens": n, "stacks": table, "absent": absent})  # fmt: skip
    exact = {name: row["drift"] for name, row in table.items() if "int8" not in name}
    b.claim(f"drift-{t.id}", f"No stack in 32 bits drifts further than 1e-3 from float64 ({t.name})",
            goal=("<=", 1e-3), unit="of a logit", better="lower",
            measured=values(max(exact, key=exact.get), [max(exact.values())]), settings=exact)  # fmt: skip


def main(b):
    for name in b.pick(smoke=("10M",), quick=("10M",), full=("10M", "30M")):
        t = Trial(b, name)
        medians = bench_speed(b, t, headline=name == "10M")
        bench_cost(b, t, medians)
        if name == "10M":
            bench_parity(b, t)
            if b.mode != "quick":
                bench_stacks(b, t)
    for name in ("TensorRT", "vLLM"):
        b.rivals[name] = f"not run: {NEVER[name]}"
    bench_gpu(b)


def profiled(b):
    t = Steps(built("10M"), 256, 128)
    step = Optimised(t.model, t.caches)
    return lambda: t(step)


if __name__ == "__main__":
    bench(main, profiled)
