"""What experiments and measurements share: the updates that are timed on real ranks, and what ranks did when.

Each side makes the same update of the same model: by one process, by our pipeline, by torch's.
"""

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import Schedule1F1B, ScheduleInterleavedZeroBubble

from common.model import GPT, ModelConfig
from phase01_foundation.project03_pretrain.objectives import CausalLM, token_loss

from .pipeline import Pipeline, posted
from .schedules import Action, schedule
from .simulator import Slot, Timeline
from .stages import cut

SMALL = {"vocab_size": 64, "n_layer": 4, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 64,
         "max_seq_len": 16}  # fmt: skip


def model_of(sizes):
    torch.manual_seed(0)
    return GPT(ModelConfig(**sizes))


def batch_of(sizes, rows):
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(sizes["vocab_size"], (rows, sizes["max_seq_len"] + 1), generator=draw)
    return tokens[:, :-1], tokens[:, 1:]


class Update:
    """Gradients and AdamW; calling it gives the loss that the first update was made from, on every rank."""

    def __init__(self, parameters, gradients):
        self.gradients, self.first = gradients, None
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def __call__(self):
        loss = self.gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.first = loss if self.first is None else self.first
        return float(self.first)


def alone(sizes, rows, m):
    """One process: the batch in m micro-batches, one after the other."""
    objective, batch = CausalLM(model_of(sizes)), batch_of(sizes, rows)

    def gradients():
        total = 0.0
        for micro in zip(*(x.chunk(m) for x in batch), strict=True):
            loss = objective(micro) / m
            loss.backward()
            total += loss.item()
        return total

    return Update(objective.parameters(), gradients)


def shared(loss):
    """The last rank's loss, on every rank, when all are done."""
    dist.all_reduce(loss)
    return loss.item()


def ours(sizes, rows, m, name, v=1, ranges=None):
    """(this rank's update by our pipeline, the pipeline)"""
    rank, p = dist.get_rank(), dist.get_world_size()
    batch, orders = batch_of(sizes, rows), schedule(name, p, m, v)
    stages = cut(model_of(sizes), p * v, ranges)
    objective = CausalLM(stages[-1]) if rank == p - 1 else None
    made = Pipeline(stages[rank::p], posted([list(range(p))]), objective)
    return Update(made.part.parameters(), lambda: shared(made.step(batch, orders))), made


def theirs(sizes, rows, m, kind):
    """This rank's update by torch.distributed.pipelining, with the same stages."""
    rank, p = dist.get_rank(), dist.get_world_size()
    stage, (tokens, targets) = cut(model_of(sizes), p)[rank], batch_of(sizes, rows)
    made = PipelineStage(stage, rank, p, torch.device("cpu"))
    several = kind is ScheduleInterleavedZeroBubble
    runs = kind([made] if several else made, m, loss_fn=token_loss)

    def gradients():
        losses = []
        if rank == p - 1:
            runs.step(*([tokens] if p == 1 else []), target=targets, losses=losses)
        else:
            runs.step(tokens) if rank == 0 else runs.step()
        return shared(torch.stack(losses).mean().detach() if losses else torch.zeros(()))

    return Update(stage.parameters(), gradients)


def recorded(made):
    """What all ranks did in the last step of a pipeline, as a Timeline, on every rank."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, [(s.rank, tuple(s.action), s.begin, s.end) for s in made.log])
    slots = [Slot(rank, Action(*action), begin, end) for each in found for rank, action, begin, end in each]
    return Timeline(slots, len(found))


def updates(rank, world, sizes, rows, m):
    """{side: an update}: by the first rank alone, and by pipelines of all ranks; one thread each."""
    torch.set_num_threads(1)
    return {
        "one thread": alone(sizes, rows, m) if rank == 0 else int,
        "one thread, whole batch": alone(sizes, rows, 1) if rank == 0 else int,
        "GPipe": ours(sizes, rows, m, "gpipe")[0],
        "1F1B": ours(sizes, rows, m, "1f1b")[0],
        "ZB-H1": ours(sizes, rows, m, "zb-h1")[0],
        "torch, 1F1B": theirs(sizes, rows, m, Schedule1F1B),
        "torch, ZB": theirs(sizes, rows, m, ScheduleInterleavedZeroBubble),
    }


def timelines(rank, world, sizes, cases):
    """{case: a step by our pipeline -> its Timeline}; cases: {name: (schedule, m, v, blocks or None)}."""
    torch.set_num_threads(1)
    tasks = {}
    for name, (kind, m, v, ranges) in cases.items():
        update, made = ours(sizes, m, m, kind, v, ranges)

        def task(update=update, made=made):
            dist.barrier()
            update()
            return recorded(made)

        tasks[name] = task
    return tasks


def measured_costs(timeline):
    """{(stage, kind): median seconds} of a measured run."""
    found = {}
    for slot in timeline.slots:
        found.setdefault((slot.action.stage, slot.action.kind), []).append(slot.end - slot.begin)
    return {key: sorted(values)[len(values) // 2] for key, values in found.items()}
