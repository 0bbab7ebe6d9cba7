"""What experiments and measurements share: the updates that are timed on real ranks, and what ranks did when.

Each side makes the same update of the same model: by one process, by our pipeline, by torch's.
"""

import copy

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import Schedule1F1B, ScheduleInterleavedZeroBubble

from common.cli import explore
from common.model import GPT, ModelConfig
from phase01_foundation.project03_pretrain.objectives import CausalLM, token_loss
from phase08_parallelism.project23_tensor_parallelism.pages import batches
from phase08_parallelism.project23_tensor_parallelism.threads import ranks

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


def pipeline_of(sizes, v=1, ranges=None):
    """This rank's stages of the model, and their pipeline."""
    rank, p = dist.get_rank(), dist.get_world_size()
    stages = cut(model_of(sizes), p * v, ranges)
    objective = CausalLM(stages[-1]) if rank == p - 1 else None
    return Pipeline(stages[rank::p], posted([list(range(p))]), objective)


def ours(sizes, rows, m, name):
    """This rank's update by our pipeline."""
    made, batch, orders = pipeline_of(sizes), batch_of(sizes, rows), schedule(name, dist.get_world_size(), m)
    return Update(made.part.parameters(), lambda: shared(made.step(batch, orders)))


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
        "GPipe": ours(sizes, rows, m, "gpipe"),
        "1F1B": ours(sizes, rows, m, "1f1b"),
        "ZB-H1": ours(sizes, rows, m, "zb-h1"),
        "torch, 1F1B": theirs(sizes, rows, m, Schedule1F1B),
        "torch, ZB": theirs(sizes, rows, m, ScheduleInterleavedZeroBubble),
    }


def timelines(rank, world, sizes, cases):
    """{case: a step by our pipeline -> its Timeline}; cases: {name: (schedule, m, v, blocks or None)}."""
    torch.set_num_threads(1)
    made, tasks = {}, {}
    for name, (kind, m, v, ranges) in cases.items():
        alike = kind == "zb-h1", v, str(ranges)  # one model for all cases that can share it
        made[alike] = made.get(alike) or pipeline_of(sizes, v, ranges)
        batch, orders = batch_of(sizes, m), schedule(kind, world, m, v)

        def task(pipeline=made[alike], batch=batch, orders=orders):
            pipeline.part.zero_grad()
            dist.barrier()
            pipeline.step(batch, orders)
            return recorded(pipeline)

        tasks[name] = task
    return tasks


def measured_costs(timeline):
    """{(stage, kind): median seconds} of a measured run."""
    found = {}
    for slot in timeline.slots:
        found.setdefault((slot.action.stage, slot.action.kind), []).append(slot.end - slot.begin)
    return {key: sorted(values)[len(values) // 2] for key, values in found.items()}


# ---- small models on virtual ranks ----


class Lab(explore.Album):
    """A small model, the same weights and rows of TinyTown's bytes for every run."""

    def __init__(self, config, run):
        super().__init__(config, run)
        sizes = {"vocab_size": 256, "n_layer": 4, "n_head": 4, "n_kv_head": 2, "d_model": config.d_model,
                 "d_ff": 2 * config.d_model, "max_seq_len": config.context}  # fmt: skip
        torch.manual_seed(config.seed)
        self.base, self.tied_config = GPT(ModelConfig(**sizes)), ModelConfig(**sizes, tie_embeddings=True)
        self.sizes = {
            **sizes,
            "d_model": config.width,
            "d_ff": 3 * config.width,
            "max_seq_len": config.length,
        }
        self.rows = batches(config.steps, config.batch_size, config.context)


class Kept:
    """A tensor that autograd keeps; `counter` knows how many bytes are kept, each storage once."""

    def __init__(self, x, counter):
        self.x, self.counter, self.key = x, counter, x.untyped_storage().data_ptr()
        counter.add(self.key, x.untyped_storage().nbytes())

    def __del__(self):
        self.counter.drop(self.key)


class Counter:
    """Bytes kept now, and at most; storages in `own`, weights, do not count."""

    def __init__(self, own):
        self.own, self.uses, self.sizes, self.now, self.most = own, {}, {}, 0, 0

    def add(self, key, nbytes):
        self.uses[key] = self.uses.get(key, 0) + 1
        if self.uses[key] == 1 and key not in self.own:
            self.sizes[key] = nbytes
            self.now += nbytes
            self.most = max(self.most, self.now)

    def drop(self, key):
        self.uses[key] -= 1
        if not self.uses[key]:
            self.now -= self.sizes.pop(key, 0)


class Counted(Pipeline):
    """A pipeline whose notes for W are counted as kept, too."""

    counter, noted = None, None

    def input_part(self, number, micro, dy):
        made = super().input_part(number, micro, dy)
        notes = self.kept[number, micro]
        self.noted[number, micro] = [Kept(x, self.counter) for note in notes for x in note[1:]]
        return made

    def weight_part(self, number, micro, given):
        super().weight_part(number, micro, given)
        del self.noted[number, micro]


def bytes_of(lab, name, p, m):
    """[(most bytes kept for backward at once, most micro-batches held) of each rank], on virtual ranks."""

    def work(wire):
        stages, row = cut(copy.deepcopy(lab.base), p), lab.rows.flatten(0, 1)[:m]
        objective = CausalLM(stages[-1]) if wire.rank == p - 1 else None
        made = Counted([stages[wire.rank]], wire, objective)
        made.counter = Counter({weight.untyped_storage().data_ptr() for weight in made.part.parameters()})
        made.noted = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda x: Kept(x, made.counter), lambda kept: kept.x):
            made.step((row[:, :-1], row[:, 1:]), schedule(name, p, m))
        return made.counter.most, made.peak

    return ranks(p, work)
