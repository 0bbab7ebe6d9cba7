"""Measure the claims: bubbles beside their formulas, speed beside one thread and torch's pipelines."""

import torch

from common.benchmark import values
from common.cli.bench import bench
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism.collectives import Wire
from phase08_parallelism.project23_tensor_parallelism.crew import Crew

from . import _gpu
from ._exact import bench_gradients, bench_simulator
from ._lab import SMALL, batch_of, measured_costs, model_of, timelines, updates
from .pipeline import Pipeline
from .schedules import schedule
from .simulator import bubble, simulate
from .stages import cut

LARGE = {"vocab_size": 256, "n_layer": 4, "n_head": 12, "n_kv_head": 4, "d_model": 768, "d_ff": 2048,
         "max_seq_len": 256}  # fmt: skip
MICROS = (1, 2, 4, 8, 16)
HEAD = 8  # micro-batches of the claims that name their number
SPEED = {"unit": "tok/s", "better": "higher"}


def sizes_of(b):
    return b.pick(smoke=SMALL, quick={**LARGE, "d_model": 384, "d_ff": 1024}, full=LARGE)


def bench_bubbles(b):
    """Two processes, 1F1B and ZB-H1 in turn: the share of their time in which they wait."""
    micros = b.pick(smoke=(1, 4), quick=(2, HEAD), full=MICROS)
    repeats = b.pick(smoke=2, quick=7, full=12)
    cases = {(name, m): (name, m, 1, None) for m in micros for name in ("1f1b", "zb-h1")}
    found = {case: [] for case in cases}
    with Crew(2, timelines, sizes_of(b), cases) as crew:
        for case in cases:
            crew(case)  # connections are opened, memory is got
        for m in micros:
            for turn in range(repeats):
                for name in ("1f1b", "zb-h1")[:: 1 if turn % 2 else -1]:
                    found[name, m].append(crew((name, m)))
    bubbles = {case: [run.bubble for run in runs] for case, runs in found.items()}
    middle = {case: sorted(each)[len(each) // 2] for case, each in bubbles.items()}
    off = {m: middle["1f1b", m] - bubble("1f1b", 2, m) for m in micros}
    b.claim(
        "bubble",
        "On two processes 1F1B's bubble lies within 0.03 of (p - 1)/(m + p - 1), from 1 micro-batch to 16",
        headline=True,
        unit="share of the time",
        better="lower",
        goal=("<=", 0.03),
        measured=values("the furthest", [max(map(abs, off.values()))]),
        settings={
            "measured": {m: middle["1f1b", m] for m in micros},
            "formula": {m: bubble("1f1b", 2, m) for m in micros},
            **sizes_of(b),
        },
        why="what is above the formula is waiting for messages, and actions that do not take equally long",
    )
    bench_zero_bubble(b, found, bubbles, micros[-1] if HEAD not in micros else HEAD)


def bench_zero_bubble(b, found, bubbles, m):
    """ZB-H1's bubble over 1F1B's, run by run; the prediction from the costs that were measured."""
    run = found["zb-h1", m][-1]
    costs = measured_costs(run)
    said = simulate(schedule("zb-h1", 2, m), lambda action: costs[action.stage, action.kind]).bubble
    measured = values("ZB-H1", bubbles["zb-h1", m], "1F1B", bubbles["1f1b", m])
    both = {
        "unit": "share of the time",
        "better": "lower",
        "measured": measured,
        "bound": bubble("zb-h1", 2, m) / bubble("1f1b", 2, m),
        "prediction": said / bubble("1f1b", 2, m),
        "settings": {
            "micro-batches": m,
            "seconds by stage and part": {
                f"{stage}{kind}": costs[stage, kind] for stage, kind in sorted(costs)
            },
        },
    }
    b.claim(
        "zb-below",
        "ZB-H1's bubble is smaller than 1F1B's, in the same run",
        goal=("<", 1.0),
        why="the bound has F = I = W; the prediction the measured costs",
        **both,
    )
    b.claim(
        "zb",
        "ZB-H1's bubble is at most 0.4 of 1F1B's",
        goal=("<=", 0.4),
        why="(p - 1)(F + I - W): attention and norms are in I and not in W, so I is dearer than W",
        **both,
    )


def bench_speed(b):
    """Whole updates: one process with one thread, two ranks by us and by torch."""
    sizes, m = sizes_of(b), HEAD
    tokens = m * sizes["max_seq_len"]
    with Crew(2, updates, sizes, m, m) as crew:
        sides = {name: lambda name=name: crew(name) for name in crew.tasks}
        run = b.compare(sides, check=1e-3, memory=False, budget=b.pick(smoke=1, quick=40, full=420))
    one = min(("one thread", "one thread, whole batch"), key=lambda name: run.sides[name].median)
    settings = {"micro-batches": m, "tokens": tokens, **sizes, "times as fast as one thread":
                {name: run.speedup(name, one)[0] for name in sides}}  # fmt: skip
    b.claim(
        "speed",
        "Two ranks of one thread each make an update at least 1.65 times as fast as one thread, with eight "
        "micro-batches",
        goal=(">=", 1.65),
        bound=2 * (1 - bubble("1f1b", 2, m)),
        measured=run.figures("1F1B", one, work=tokens),
        settings=settings,
        why="the bound is p m/(m + p - 1): two ranks, less the bubble",
        **SPEED,
    )
    b.claim(
        "torch-1f1b",
        "1F1B is at least as fast as torch.distributed.pipelining's, with the same stages",
        goal=(">=", 1.0),
        measured=run.figures("1F1B", "torch, 1F1B", work=tokens),
        why="the same products in the same order; torch waits for each message before the next action",
        **SPEED,
    )
    b.claim(
        "torch-zb",
        "ZB-H1 is at least as fast as torch's zero-bubble schedule",
        goal=(">=", 1.0),
        measured=run.figures("ZB-H1", "torch, ZB", work=tokens),
        why="torch finds out from the graph what belongs to which part, for every micro-batch",
        **SPEED,
    )
    b.claim(
        "zb-speed",
        "ZB-H1 makes an update faster than 1F1B",
        goal=(">", 1.0),
        bound=(1 - bubble("zb-h1", 2, m)) / (1 - bubble("1f1b", 2, m)),
        measured=run.figures("ZB-H1", "1F1B", work=tokens),
        why="on two ranks there is not much to win: the bubble is a ninth",
        **SPEED,
    )


def main(b):
    bench_bubbles(b)
    bench_simulator(b)
    bench_gradients(b)
    bench_speed(b)
    _gpu.bench_split(b)


def profiled(b):
    sizes = sizes_of(b)
    stages = cut(model_of(sizes), 1)
    made, batch = Pipeline(stages, Wire(), CausalLM(stages[0])), batch_of(sizes, 4)
    torch.set_num_threads(1)
    return lambda: made.step(batch, schedule("zb-h1", 1, 4))


if __name__ == "__main__":
    bench(main, profiled)
