"""Rows of one's own: gradients are those of the mean over all rows, however they are exchanged."""

import copy

import pytest
import torch
from torch import nn

from common.model import GPT, Block, swap
from common.testing import close, tiny
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism import data_parallel
from phase08_parallelism.project23_tensor_parallelism.data_parallel import Buckets, Sharded, fill
from phase08_parallelism.project23_tensor_parallelism.groups import Ring
from phase08_parallelism.project23_tensor_parallelism.threads import ranks

WORLD = 2


def model_and_rows():
    """A float64 model and two rows for each rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(d_model=16, d_ff=20)).double()
        return model, torch.randint(97, (2 * WORLD, 7))


def rows_of(rows, wire):
    mine = rows.chunk(wire.world)[wire.rank]
    return mine[:, :-1], mine[:, 1:]


def truth(model, rows):
    """The gradients of one process that has all rows."""
    made = copy.deepcopy(model)
    CausalLM(made)((rows[:, :-1], rows[:, 1:])).backward()
    return {name: p.grad for name, p in made.named_parameters()}


class Backwards(nn.Module):
    """Two layers, used in the order opposite to that of their names; a third that is not used at all."""

    def __init__(self):
        super().__init__()
        self.second, self.first, self.idle = (nn.Linear(4, 4, bias=False) for _ in range(3))

    def forward(self, x):
        return self.second(self.first(x)).square().sum()


class Watched(Ring):
    """Notes what is sent off, and when."""

    def __init__(self, wire, events):
        super().__init__(wire)
        self.events = events

    def start(self, x):
        self.events.append(f"sent {x.numel()}")
        return super().start(x)


def test_buckets_are_filled_from_the_end():
    sizes = [4, 1, 1, 2, 9, 1]
    parameters = [nn.Parameter(torch.zeros(n)) for n in sizes]
    buckets = fill(parameters, most=4 * 4)
    assert [[p.numel() for p in bucket] for bucket in buckets] == [[1], [9], [2, 1, 1], [4]]
    assert fill([], most=8) == []


@pytest.mark.exercise("Buckets.ready")
@pytest.mark.parametrize("most", [1, 3000, 1 << 20])
def test_matches_one_process_in_buckets(most):
    """A bucket for each parameter, some, one for all; twice, as in a training."""
    model, rows = model_and_rows()
    want = truth(model, rows)

    def work(wire):
        mine = copy.deepcopy(model)
        buckets = Buckets(mine, Ring(wire), most)
        for _ in range(2):
            mine.zero_grad()
            CausalLM(mine)(rows_of(rows, wire)).backward()
            assert len(buckets.waits) == len(buckets.buckets), "not all are on their way"
            buckets.finish()
        return {name: p.grad for name, p in mine.named_parameters()}

    for found in ranks(WORLD, work):
        for name, grad in found.items():
            close(grad, want[name], name, rtol=1e-5, atol=1e-7)


@pytest.mark.exercise("Buckets.ready")
def test_buckets_go_off_while_backward_runs():
    """The last layer's bucket leaves before the first layer's gradient is there."""

    def work(wire):
        events, model = [], nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 5))
        Buckets(model, Watched(wire, events), most=80)
        model[0].weight.register_hook(lambda grad: events.append("first layer"))
        model(torch.ones(1, 2)).sum().backward()
        return events

    assert ranks(2, work) == [["sent 20", "first layer", "sent 9"]] * 2


@pytest.mark.exercise("Buckets.ready")
def test_buckets_go_off_in_one_order():
    """Used against the order of their names, and one not used: no bucket is sent before its gradients, and
    what never came counts as zeros."""

    def work(wire):
        events, model = [], Backwards()
        for p in model.parameters():
            torch.nn.init.constant_(p, 0.5)
        buckets = Buckets(model, Watched(wire, events), most=64)
        model(torch.full((1, 4), wire.rank + 1.0)).backward()
        assert events == [], "the first bucket waits for a parameter that never comes"
        buckets.finish()
        assert len(events) == 3
        return [p.grad for p in model.parameters()]

    alone = Backwards()
    for p in alone.parameters():
        torch.nn.init.constant_(p, 0.5)
    ((alone(torch.full((1, 4), 1.0)) + alone(torch.full((1, 4), 2.0))) / 2).backward()
    for second, first, idle in ranks(2, work):
        close(second, alone.second.weight.grad, "the layer used last")
        close(first, alone.first.weight.grad, "the layer used first")
        assert not idle.any()


@pytest.mark.exercise("Buckets.ready")
def test_a_bucket_waits_for_those_before_it():
    """Full out of turn: it goes right behind the one that it waited for."""

    def work(wire):
        model, events = Backwards(), []
        del model.idle
        buckets = Buckets(model, Watched(wire, events), most=64)
        assert [[p is model.first.weight for p in b] for b in buckets.buckets] == [[True], [False]]
        model.first.weight.register_hook(lambda grad: events.append("first bucket"))
        model(torch.ones(1, 4)).backward()
        buckets.finish()
        assert model.first.weight.grad.any()
        return events

    assert ranks(2, work) == [["first bucket", "sent 16", "sent 16"]] * 2


@pytest.mark.exercise("Sharded.gathered")
def test_matches_one_process_sharded():
    """Blocks of which each rank keeps half: the loss, and the gradient of that half."""
    model, rows = model_and_rows()
    want = truth(model, rows)
    flat = [torch.cat([want[f"blocks.{i}.{name}"].flatten() for name, _ in block.named_parameters()])
            for i, block in enumerate(model.blocks)]  # fmt: skip
    losses = [CausalLM(model)((part[:, :-1], part[:, 1:])).item() for part in rows.chunk(WORLD)]

    def work(wire):
        group, mine = Ring(wire), copy.deepcopy(model)
        swap(mine, Block, lambda block: Sharded(block, group))
        loss = CausalLM(mine)(rows_of(rows, wire))
        loss.backward()
        return loss.item(), [
            (block.shard.grad, sum(p.numel() for p in block.parameters())) for block in mine.blocks
        ]

    for rank, (loss, blocks) in enumerate(ranks(WORLD, work)):
        assert loss == pytest.approx(losses[rank], abs=1e-5)
        for whole, (grad, held) in zip(flat, blocks, strict=True):
            padded = torch.cat((whole, whole.new_zeros(-len(whole) % WORLD)))
            assert held == len(padded) // WORLD
            close(grad, padded.chunk(WORLD)[rank], "gradient of a shard", rtol=1e-5, atol=1e-7)


def test_sharded_numbers_that_do_not_come_out_even():
    """Five numbers for three ranks, and no gradients: the padding is never seen."""
    linear, x = nn.Linear(1, 3), torch.tensor([[2.0]])
    del linear.bias
    linear.register_parameter("bias", nn.Parameter(torch.tensor(1.0)))
    want = linear(x)

    def work(wire):
        with torch.no_grad():
            return Sharded(copy.deepcopy(linear), Ring(wire))(x)

    assert all(torch.equal(y, want) for y in ranks(3, work))


def test_the_naive_way_matches():
    model, rows = model_and_rows()
    want = truth(model, rows)

    def work(wire):
        mine = copy.deepcopy(model)
        CausalLM(mine)(rows_of(rows, wire)).backward()
        data_parallel.average(mine, Ring(wire))
        return {name: p.grad for name, p in mine.named_parameters()}

    for found in ranks(WORLD, work):
        for name, grad in found.items():
            close(grad, want[name], name, rtol=1e-5, atol=1e-7)
