"""Real processes on gloo: against torch.distributed.pipelining and one process; and a rank that hangs.

The processes are started once for each number of ranks, and everything is asked there.
"""

import copy
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)

from common.errors import UserError
from common.model import GPT
from common.ranks import spawn
from common.testing import close, tiny
from phase01_foundation.project03_pretrain.objectives import CausalLM, token_loss
from phase08_parallelism.project24_pipeline_parallelism.pipeline import Pipeline, Posted, posted
from phase08_parallelism.project24_pipeline_parallelism.schedules import schedule
from phase08_parallelism.project24_pipeline_parallelism.simulator import messages
from phase08_parallelism.project24_pipeline_parallelism.stages import cut

M, CPU = 8, torch.device("cpu")
TORCH_S = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B,
           "zb-h1": ScheduleInterleavedZeroBubble}  # fmt: skip


def model_and_batch(world):
    torch.manual_seed(0)
    model, tokens = GPT(tiny(d_model=16, d_ff=20, n_layer=2 * world)), torch.randint(97, (M, 9))
    for p in model.parameters():
        p.data.mul_(6 if p.dim() > 1 else 1)
    return model, (tokens[:, :-1], tokens[:, 1:])


def one_process(model, batch):
    made = copy.deepcopy(model)
    loss = CausalLM(made)(batch)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in made.named_parameters()}


def ours(rank, world, wire, model, batch, name, v):
    """(loss, gradients, bytes sent)"""
    stages, sent = cut(copy.deepcopy(model), world * v), wire.sent
    made = Pipeline(stages[rank::world], wire, CausalLM(stages[-1]) if rank == world - 1 else None)
    loss = made.step(batch, schedule(name, world, M, v)).item()
    return loss, {n: p.grad for n, p in made.part.named_parameters()}, wire.sent - sent


def by_torch(rank, world, model, batch, name, v):
    """(loss, gradients)"""
    own, losses = cut(copy.deepcopy(model), world * v)[rank::world], []
    made = [PipelineStage(stage, stage.number, world * v, CPU) for stage in own]
    several = name in ("interleaved", "zb-h1")
    runs = TORCH_S[name](made if several else made[0], M, loss_fn=token_loss)
    tokens, targets = batch
    end = {"target": targets, "losses": losses} if rank == world - 1 else {}
    runs.step(*([tokens] if rank == 0 else []), **end)
    loss = sum(x.item() for x in losses) / M
    return loss, {n: p.grad for stage in own for n, p in stage.named_parameters()}


def schedules_match_torch(rank, world):
    """Loss, and each gradient, of every schedule: one process, torch's pipelines, ours."""
    model, batch = model_and_batch(world)
    (loss, whole), wire = one_process(model, batch), posted([list(range(world))])
    for name in TORCH_S:
        v = 2 if name == "interleaved" else 1
        found, grads, sent = ours(rank, world, wire, model, batch, name, v)
        theirs, their_grads = by_torch(rank, world, model, batch, name, v)
        if rank == world - 1:
            assert abs(found - loss) < 1e-5 and abs(theirs - loss) < 1e-5, name
        assert grads.keys() == their_grads.keys()
        for n, grad in grads.items():
            close(grad, whole[n], f"{name}: {n}", rtol=1e-5, atol=1e-5)
            close(grad, their_grads[n], f"{name}: {n} against torch", rtol=1e-5, atol=1e-5)
        total = torch.tensor(sent)
        dist.all_reduce(total)
        assert total == messages(schedule(name, world, M, v)) * 8 * 16 * 4, "a row is 8 tokens of 16 channels"


def nobody_waits_for_a_send(rank, world):
    """All send to both neighbours before anybody receives."""
    wire, x = posted([list(range(world))]), torch.full((1 << 16,), float(rank))
    others = {(rank + 1) % world, (rank - 1) % world}
    for other in others:
        wire.exchange(x, other)
    for other in others:
        came = torch.empty_like(x)
        wire.exchange(into=came, source=other)
        assert (came == other).all()
    wire.finish()
    assert wire.posted == []


def hung_rank_is_named(rank, world):
    """A rank that never sends: who waits for it ends with a line that says in what it waited."""
    short = dist.new_group([0, 1], timeout=timedelta(seconds=1))
    if rank == 0:
        wire = Posted([0, 1], {(0, 1): short, (1, 0): short})
        with pytest.raises(UserError, match="rank 0 waited in the pipeline for a rank that never came"):
            wire.exchange(into=torch.empty(4), source=1)
    dist.barrier()


def on_a_rank(rank, world):
    schedules_match_torch(rank, world)
    nobody_waits_for_a_send(rank, world)
    hung_rank_is_named(rank, world)
    return "all of it"


def test_matches_torch_pipelining_on_two_ranks():
    """Four schedules, messages that cross, a hang."""
    assert spawn(on_a_rank, 2, timeout=240.0) == ["all of it"] * 2


@pytest.mark.slow
def test_matches_torch_pipelining_on_four_ranks():
    assert spawn(on_a_rank, 4, timeout=240.0) == ["all of it"] * 4


@pytest.mark.gpu
def test_matches_the_cpu_on_nccl():
    """Two stages on one GPU, one rank of NCCL: loss and gradients beside those on the CPU."""
    model, batch = model_and_batch(1)
    loss, grads = one_process(model, batch)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        stages = cut(model.cuda(), 2)
        made = Pipeline(stages, posted([[0]]), CausalLM(stages[1]))
        found = made.step(tuple(x.cuda() for x in batch), schedule("interleaved", 1, M, 2))
        assert abs(found.item() - loss) < 1e-4
        for name, p in made.part.named_parameters():
            close(p.grad.cpu(), grads[name], name, rtol=1e-3, atol=1e-4)
    finally:
        dist.destroy_process_group()
