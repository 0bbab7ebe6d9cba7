"""Real processes on gloo: against torch.distributed, DTensor, DDP, its checkpoints; a cap; a rank that hangs.

The processes are started once for each number of ranks, and everything is asked there.
"""

import copy
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError
from common.model import GPT, Block, swap
from common.ranks import spawn
from common.testing import close, tiny
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism import _cap, checkpoints, collectives, tensor_parallel
from phase08_parallelism.project23_tensor_parallelism.data_parallel import Buckets, Sharded
from phase08_parallelism.project23_tensor_parallelism.groups import ALONE, Library, Ring
from phase08_parallelism.project23_tensor_parallelism.vocabulary import ParallelCausalLM


def model_and_batch(seed=0, **sizes):
    torch.manual_seed(seed)
    model = GPT(tiny(**{"d_model": 16, "d_ff": 20, "n_layer": 1, "n_kv_head": 4, **sizes}))
    for p in model.parameters():
        p.data.mul_(6 if p.dim() > 1 else 1)
    tokens = torch.randint(97, (4, 9))
    return model, (tokens[:, :-1], tokens[:, 1:])


def whole(model, batch):
    """(loss, gradients) of one process."""
    made = copy.deepcopy(model)
    loss = CausalLM(made)(batch)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in made.named_parameters()}


def collectives_match(rank, world):
    """Our ring, torch's own, and the truth: every operation, the same bits on every rank."""
    x = [torch.randn(6, 4, generator=torch.Generator().manual_seed(r)) for r in range(world)]
    for group in (Ring(collectives.Processes()), Library()):
        close(group.all_reduce(x[rank]), sum(x), "all_reduce")
        assert torch.equal(group.all_reduce(x[rank], torch.maximum), torch.stack(x).amax(0))
        assert torch.equal(group.all_gather(x[rank].T, 1), torch.cat([one.T for one in x], 1))
        parts = sum(x).chunk(world, 1)
        close(group.reduce_scatter(x[rank], 1), parts[rank], "reduce_scatter")
        close(group.start(x[rank])(), sum(x), "start")
    theirs = x[rank].clone()
    dist.all_reduce(theirs)
    close(Ring(collectives.Processes()).all_reduce(x[rank]), theirs, "against dist.all_reduce")
    mine, torch_s = x[rank].clone(), x[rank].clone()
    collectives.broadcast(collectives.Processes(), mine, source=1, piece=5)
    dist.broadcast(torch_s, 1)
    assert torch.equal(mine, torch_s)


def model_matches_dtensor(rank, world):
    """Loss, and each gradient of the blocks, beside torch's parallelize_module and the whole model."""
    model, batch = model_and_batch()
    loss, grads = whole(model, batch)
    plan = {f"blocks.*.{name}": ColwiseParallel() for name in ("attn.wq", "attn.wk", "attn.wv", "ffn.w_gate",
                                                               "ffn.w_up")}  # fmt: skip
    plan |= {f"blocks.*.{name}": RowwiseParallel() for name in ("attn.wo", "ffn.w_down")}
    theirs = parallelize_module(copy.deepcopy(model), init_device_mesh("cpu", (world,)), plan)
    CausalLM(theirs)(batch).backward()
    shards = {name: getattr(p.grad, "_local_tensor", p.grad) for name, p in theirs.named_parameters()}
    for group in (Library(), Ring(collectives.Processes())):
        for sequence in (False, True):
            mine = tensor_parallel.apply(copy.deepcopy(model), group, sequence)
            found = ParallelCausalLM(mine)(batch)
            found.backward()
            tensor_parallel.finish_gradients(mine, group, sequence)
            assert abs(found.item() - loss) < 1e-5
            for name, p in mine.named_parameters():
                cut = tensor_parallel.cuts(mine)[name]
                truth = grads[name].chunk(cut.parts, cut.dim)[rank * cut.parts // world]
                close(p.grad, truth, name, rtol=1e-5, atol=1e-5)
                if name.startswith("blocks"):
                    close(p.grad, shards[name], f"{name} against DTensor", rtol=1e-5, atol=1e-5)


def dropout_draws_alike(rank, world):
    """With one seed on all ranks, dropout falls on the same numbers as in one process."""
    model, batch = model_and_batch(dropout=0.3)
    torch.manual_seed(5)
    loss = CausalLM(model)(batch).item()
    mine = ParallelCausalLM(tensor_parallel.apply(copy.deepcopy(model), Library()))
    torch.manual_seed(5)
    assert abs(mine(batch).item() - loss) < 1e-5
    torch.manual_seed(5 + rank)
    a, b, *_ = Library().all_gather(mine.model.hidden(batch[0]).detach(), 0).chunk(world)
    assert (a - b).abs().max() > 0.1, "with other seeds the ranks no longer are one model"


def buckets_match_ddp(rank, world):
    """Our buckets beside torch's DistributedDataParallel, on rows of one's own."""
    model, batch = model_and_batch()
    mine, own = copy.deepcopy(model), tuple(x.chunk(world)[rank] for x in batch)
    theirs = DistributedDataParallel(CausalLM(copy.deepcopy(model)))
    theirs(own).backward()
    buckets = Buckets(mine, Library(), most=4000)
    CausalLM(mine)(own).backward()
    buckets.finish()
    for (name, p), q in zip(mine.named_parameters(), theirs.module.model.parameters(), strict=True):
        close(p.grad, q.grad, name)
    sharded = swap(copy.deepcopy(model), Block, lambda block: Sharded(block, Library()))
    CausalLM(sharded)(own).backward()
    flat = torch.cat([p.grad.flatten() for p in mine.blocks[0].parameters()])
    close(sharded.blocks[0].shard.grad, flat.chunk(world)[rank], "a shard")


def checkpoint_moves(rank, world, folder):
    """What one process wrote is read by these; what these write, the parent reads."""
    mine = tensor_parallel.apply(model_and_batch(1, n_kv_head=2)[0], Library())
    optimizer = warm(mine)
    tensors = checkpoints.state(mine, optimizer, world)
    notes = checkpoints.read(Path(folder) / "by-one", tensors)
    assert notes == {"step": 3}
    model, _ = model_and_batch(2, n_kv_head=2)
    want = tensor_parallel.apply(model, Library())
    for p, q in zip(mine.parameters(), want.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(optimizer.state[p]["exp_avg"], q.detach() / 2)
    checkpoints.write(Path(folder) / f"by-{world}", tensors, {"step": 4})


def warm(model, fill=False):
    """AdamW with a state: half of each weight as its first moment, or zeros."""
    optimizer = torch.optim.AdamW(model.parameters())
    for p in model.parameters():
        optimizer.state[p] = {"step": torch.tensor(7.0), "exp_avg": p.detach() / 2 * fill,
                              "exp_avg_sq": torch.zeros_like(p)}  # fmt: skip
    return optimizer


def hung_rank_is_named(rank, world):
    """A rank that does not come: the others end with a line that says in what they waited."""
    short = dist.new_group(timeout=timedelta(seconds=1))
    if rank == 0:
        for group in (Library(short), Ring(collectives.Processes(short))):
            with pytest.raises(UserError, match="rank 0 waited in all_reduce for a rank that never came"):
                group.all_reduce(torch.ones(4))
    dist.barrier()


def cap_is_too_small_for_one(rank, world):
    """Under RLIMIT_DATA: a training of the whole model fails for want of memory, one of a part does not."""
    if not _cap.possible():
        return
    sizes = {"d_model": 512, "d_ff": 2048, "n_layer": 2, "n_head": 8, "n_kv_head": 8, "vocab_size": 2000,
             "max_seq_len": 8}  # fmt: skip
    with _cap.cap(13 * _cap.numbers(sizes)):
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            _cap.trained(sizes, ALONE)
        assert _cap.trained(sizes, Library()) < 20


def on_a_rank(rank, world, folder):
    """Everything, one after the other, in one start of the processes."""
    collectives_match(rank, world)
    model_matches_dtensor(rank, world)
    dropout_draws_alike(rank, world)
    buckets_match_ddp(rank, world)
    checkpoint_moves(rank, world, folder)
    if world == 2:
        cap_is_too_small_for_one(rank, world)
    hung_rank_is_named(rank, world)
    return "all of it"


def everything(world, folder):
    model, _ = model_and_batch(2, n_kv_head=2)
    checkpoints.write(folder / "by-one", checkpoints.state(model, warm(model, fill=True), 1), {"step": 3})
    assert spawn(on_a_rank, world, str(folder), timeout=240.0) == ["all of it"] * world
    other, _ = model_and_batch(3, n_kv_head=2)
    optimizer = warm(other)
    notes = checkpoints.read(folder / f"by-{world}", checkpoints.state(other, optimizer, 1))
    assert notes == {"step": 4}
    for p, q in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(optimizer.state[p]["exp_avg"], q / 2)


def test_matches_torch_distributed_on_two_ranks(tmp_path):
    """Collectives, DTensor, DDP, dropout, checkpoints from 1 rank to 2 and back, a cap, a hang."""
    everything(2, tmp_path)


@pytest.mark.slow
def test_matches_torch_distributed_on_four_ranks(tmp_path):
    """The same with four, which is more than there are key/value heads in the checkpoint."""
    everything(4, tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model, _ = model_and_batch()
    checkpoints.write(tmp_path / "step-9", checkpoints.state(model, warm(model), 1), {})
    checkpoints.write(tmp_path / "step-10", checkpoints.state(model, warm(model), 1), {})
    assert checkpoints.latest(tmp_path).name == "step-10" and checkpoints.latest(tmp_path / "x") is None
    other, _ = model_and_batch(d_ff=24)
    with pytest.raises(UserError, match="another model"):
        checkpoints.read(tmp_path / "step-9", checkpoints.state(other, warm(other), 1))
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoints.read(tmp_path / "nothing", {})


@pytest.mark.gpu
def test_matches_the_cpu_on_nccl():
    """One rank of NCCL: loss and gradients on the GPU beside those on the CPU."""
    model, batch = model_and_batch()
    loss, grads = whole(model, batch)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mine = tensor_parallel.apply(copy.deepcopy(model), Library()).cuda()
        found = ParallelCausalLM(mine)(tuple(x.cuda() for x in batch))
        found.backward()
        assert abs(found.item() - loss) < 1e-4
        for name, p in mine.named_parameters():
            close(p.grad.cpu(), grads[name], name, rtol=1e-3, atol=1e-4)
    finally:
        dist.destroy_process_group()
