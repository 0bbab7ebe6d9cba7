"""What must hold, without a clock: the simulator's formulas, gradients as of one process, what is held."""

import copy
from fractions import Fraction

import torch
import torch.nn.functional as F

from common.benchmark import values
from common.model import GPT, ModelConfig
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism.threads import ranks

from .pipeline import Pipeline
from .schedules import SCHEDULES, held, schedule
from .simulator import Costs, bubble, simulate
from .stages import cut

SIZES = {"vocab_size": 211, "n_layer": 8, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 64,
         "max_seq_len": 16}  # fmt: skip


def bench_simulator(b):
    """Every schedule, from 2 to 16 ranks, in whole numbers: does the clock say what the formula says?"""
    wrong, played, thirds = 0, 0, Costs(*[Fraction(1)] * 3)
    for p in b.pick(smoke=(2, 3), quick=(2, 3, 4, 8), full=(*range(2, 13), 16)):
        for name in SCHEDULES:
            for v in (2, 4) if name == "interleaved" else (1,):
                for m in (p, 2 * p):
                    run = simulate(schedule(name, p, m, v), lambda action, v=v: thirds.of(action) / v)
                    wrong += run.bubble != bubble(name, p, m, v, thirds)
                    played += 1
    b.claim("simulator", "The bubble of every schedule by the simulator is the formula's, exactly",
            unit="runs that differ", better="lower", goal=("==", 0), measured=values("ours", [float(wrong)]),
            settings={"runs": played, "ranks": "2 to 16", "schedules": list(SCHEDULES)})  # fmt: skip


class Exact(CausalLM):
    """The loss in the model's own precision."""

    def forward(self, batch):
        return F.cross_entropy(self.model(batch[0]).flatten(0, 1), batch[1].flatten())


def a_step(wire, base, batch, name, m, v):
    """A rank's gradients, and the most micro-batches that it held."""
    stages = cut(copy.deepcopy(base), wire.world * v)
    objective = Exact(stages[-1]) if wire.rank == wire.world - 1 else None
    made = Pipeline(stages[wire.rank :: wire.world], wire, objective)
    total = made.step(batch, schedule(name, wire.world, m, v)).item()
    return total, {n: p.grad for n, p in made.part.named_parameters()}, made.peak


def bench_gradients(b):
    """Every synchronous schedule on 2, 4 and 8 virtual ranks beside one process; what each rank holds."""
    torch.manual_seed(0)
    base, tokens = GPT(ModelConfig(**SIZES)), torch.randint(211, (16, 17))
    batch, made, m = (tokens[:, :-1], tokens[:, 1:]), copy.deepcopy(base), 16
    loss = Exact(made)(batch)
    loss.backward()
    whole, off, counts, wrong = {n: p.grad for n, p in made.named_parameters()}, {}, {}, 0
    for p in b.pick(smoke=(2,), quick=(2, 4, 8), full=(2, 4, 8)):
        for name in SCHEDULES:
            v = 2 if name == "interleaved" and p < 8 else 1
            found, key = ranks(p, a_step, base, batch, name, m, v), f"{name}, {p} ranks"
            off[key] = max(
                [abs(found[-1][0] - loss.item())]
                + [(g - whole[n]).abs().max().item() for _, each, _ in found for n, g in each.items()]
            )
            counts[key] = [most for *_, most in found]
            wrong += counts[key] != [max(held(order)) for order in schedule(name, p, m, v)]
            wants = {"gpipe": m, "1f1b": p, "zb-h1": p}
            wrong += name in wants and max(counts[key]) != wants[name]
    b.claim(
        "equal",
        "Loss and every gradient lie within 1e-5 of one process's, for every schedule on 2, 4 and 8 ranks",
        unit="largest difference",
        better="lower",
        goal=("<=", 1e-5),
        measured=values("ours", [max(off.values())]),
        settings={"differences": off},
    )
    b.claim(
        "held",
        "GPipe holds m micro-batches, 1F1B and ZB-H1 hold p, counted while they run",
        unit="cases that differ",
        better="lower",
        goal=("==", 0),
        measured=values("ours", [float(wrong)]),
        settings={"micro-batches": m, "held by each rank": counts},
    )
