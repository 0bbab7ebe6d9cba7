"""Measure the claims: a cap too low for one rank, bytes, equality, speed, our ring beside gloo's."""

from dataclasses import replace

import torch

from common.benchmark import values
from common.cli.bench import bench
from common.model import GPT, ModelConfig
from common.ranks import spawn
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import _gpu
from ._cap import numbers, peaks, possible, under_a_cap
from ._exact import SMALL, bench_exact
from ._lab import Update, repeats, sums, updates
from .collectives import bytes_sent
from .crew import Crew

LARGE = {
    "vocab_size": 4096,
    "n_layer": 2,
    "n_head": 16,
    "n_kv_head": 8,
    "d_model": 1024,
    "d_ff": 2816,
    "max_seq_len": 512,
}
CAPPED = {
    "vocab_size": 4096,
    "n_layer": 4,
    "n_head": 8,
    "n_kv_head": 8,
    "d_model": 640,
    "d_ff": 1792,
    "max_seq_len": 64,
}
ROOM = 13  # bytes for each weight of the whole model: AdamW in float32 wants 16 and more, half of that on two
MODEL = {"unit": "tok/s", "better": "higher"}


def bench_cap(b):
    """The whole model and its halves under one cap on a process's data, in the same two processes."""
    sizes = b.pick(smoke={**CAPPED, "d_model": 320, "d_ff": 896}, quick=CAPPED, full=CAPPED)
    sentence = (
        "Under a cap on a process's memory at which one rank cannot train the model, both ranks of two "
        "train it"
    )
    claim = {"unit": "ranks", "better": "higher", "goal": ("==", 2), "headline": True}
    if b.device.type != "cpu" or not possible():
        b.not_run("cap", sentence, why="RLIMIT_DATA caps processes of Linux, on a CPU", **claim)
        return
    found = spawn(under_a_cap, 2, sizes, ROOM, timeout=600.0)
    ends = [each["alone"] for each in found]
    trained = [float(each["loss"] is not None and "allocate" in each["alone"]) for each in found]
    weights = numbers(sizes)
    b.claim(
        "cap",
        sentence,
        measured=values("trained only in parts", [sum(trained)]),
        **claim,
        settings={
            "weights": weights,
            "cap above what is held already, bytes a weight": ROOM,
            "alone": ends,
            "loss of the update in parts": [each["loss"] for each in found],
        },
        why="a weight takes 16 bytes, with its gradient and two moments, of which each of two holds half",
    )
    most = spawn(peaks, 2, sizes, timeout=600.0)
    b.claim(
        "memory",
        "On two ranks each takes at most 0.6 of the memory that one alone takes for an update",
        unit="bytes",
        better="lower",
        goal=("<=", 0.6),
        bound=0.5,
        prediction=numbers(sizes, 2) / weights,
        measured=values(
            "each of two", [each["part"] for each in most], "one alone", [each["whole"] for each in most]
        ),
        why="peaks of resident memory above what was held before; norms and activations between blocks "
        "stand on both",
    )


def bench_ring(b):
    """All-reduces of many sizes by our ring and by gloo's; the rate of the wires by sends alone."""
    sizes = b.pick(
        smoke=(64, 4096), quick=(1 << 10, 1 << 16, 1 << 20), full=tuple(1 << k for k in range(8, 23, 2))
    )
    found, budget = {}, b.pick(smoke=0.3, quick=5, full=30)
    with Crew(2, sums, sizes, repeats) as crew:

        def compare(n):
            sides = {name: lambda name=name: crew(name) for name in (f"dist {n}", f"ours {n}")}
            run = b.compare(sides, check=1e-5, memory=False, budget=budget)
            for _ in range(3):
                crew(f"swap {n}")
            wires = b.compare(
                {"a": lambda: crew(f"swap {n}"), "b": lambda: crew(f"swap {n}")},
                check=1e-5,
                memory=False,
                budget=budget / 3,
            )
            found[n] = run, wires.sides["a"].median
            return _named(run, n)

        sweep = b.sweep("numbers in the tensor", sizes, compare, "ours")
    n = sizes[-1]
    run, wire = found[n]
    rate = 4 * n * repeats(n) / wire
    b.claim(
        "ring",
        f"Our ring sums {n:,} numbers at 0.9 of the rate of torch.distributed's or better",
        unit="bytes/s",
        better="higher",
        goal=(">=", 0.9),
        bound=run.sides[f"dist {n}"].median / wire,
        measured=run.figures(f"ours {n}", work=4 * n * repeats(n)),
        settings={
            "sweep": sweep,
            "bytes/s of the wire, both ways": rate,
            "ranks": 2,
            "bytes sent, of the tensor": bytes_sent(n, 2) / (4 * n),
        },
        why="the bound sends 2 (N - 1)/N of the tensor at the rate of plain sends, and adds nothing up",
    )
    return rate


def _named(run, n):
    """The comparison with its sides' names as the sweep wants them."""
    return replace(run, sides={"dist": run.sides[f"dist {n}"], "ours": run.sides[f"ours {n}"]})


def bench_speed(b, rate):
    """Whole updates: one process with one thread and with two, two ranks by us and by DTensor."""
    sizes = b.pick(smoke={**SMALL, "vocab_size": 256}, quick=LARGE, full=LARGE)
    rows = b.pick(smoke=1, quick=1, full=2)
    tokens = rows * sizes["max_seq_len"]
    with Crew(2, updates, sizes, rows) as crew:
        sides = {name: lambda name=name: crew(name) for name in crew.tasks}
        run = b.compare(sides, check=1e-3, memory=False, budget=b.pick(smoke=1, quick=45, full=420))
    one = run.sides["one thread"].median
    sent = bytes_sent(tokens * sizes["d_model"], 2) * (4 * sizes["n_layer"] + 2)
    settings = {
        "tokens": tokens,
        **sizes,
        "bytes sent by a rank": sent,
        "times as fast as one thread": {name: run.speedup(name)[0] for name in list(sides)[1:]},
    }
    b.claim(
        "speed",
        "Two ranks of one thread each make an update at least 1.6 times as fast as one thread, at "
        "1,024 channels and 512 tokens a row",
        **MODEL,
        goal=(">=", 1.6),
        bound=2.0,
        prediction=1 / (0.5 + sent / rate / one),
        measured=run.figures("two ranks", work=tokens),
        settings=settings,
        why="the prediction halves all work and adds the bytes at the rate of the ring",
    )
    b.claim(
        "dtensor",
        "They are at least as fast as torch's parallelize_module with the same cuts",
        **MODEL,
        goal=(">=", 1.0),
        measured=run.figures("two ranks", "two ranks, DTensor", work=tokens),
        why="the same products; DTensor asks before each operation how its inputs are shared out",
    )
    b.claim(
        "threads",
        "Against one process with two threads, two ranks lose at most a tenth",
        **MODEL,
        goal=(">=", 0.9),
        bound=1.0,
        measured=run.figures("two ranks", "two threads", work=tokens),
        why="on one machine threads share all memory and send nothing: ranks are for when it is not one",
    )
    b.claim(
        "sequence",
        "With sequence parallelism an update takes at most 1.05 times as long",
        unit="s",
        better="lower",
        goal=("<=", 1.05),
        measured=run.figures("two ranks, sequence", "two ranks"),
        why="as many bytes, in halves; less work in norms and residuals",
    )


def main(b):
    bench_cap(b)
    bench_exact(b)
    rate = bench_ring(b)
    bench_speed(b, rate)
    _gpu.bench_products(b)


def profiled(b):
    torch.manual_seed(0)
    sizes = b.pick(smoke=SMALL, quick=LARGE, full=LARGE)
    tokens = torch.randint(sizes["vocab_size"], (1, sizes["max_seq_len"] + 1))
    return Update(CausalLM(GPT(ModelConfig(**sizes))), (tokens[:, :-1], tokens[:, 1:]))


if __name__ == "__main__":
    bench(main, profiled)
