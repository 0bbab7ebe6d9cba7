"""Gradients through a pipeline are those of one process, for every schedule; on virtual ranks."""

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism import tensor_parallel
from phase08_parallelism.project23_tensor_parallelism.groups import ALONE
from phase08_parallelism.project23_tensor_parallelism.threads import ranks
from phase08_parallelism.project23_tensor_parallelism.vocabulary import ParallelCausalLM
from phase08_parallelism.project24_pipeline_parallelism.pipeline import Pipeline
from phase08_parallelism.project24_pipeline_parallelism.schedules import Action, forwards_only, schedule
from phase08_parallelism.project24_pipeline_parallelism.simulator import messages
from phase08_parallelism.project24_pipeline_parallelism.stages import cut

WAYS = [("gpipe", 2, 1), ("1f1b", 2, 1), ("1f1b", 4, 1), ("interleaved", 2, 2), ("interleaved", 1, 2)]


class Exact(CausalLM):
    """Project 3's loss, which is taken in float32, in the model's own float64."""

    def forward(self, batch):
        return F.cross_entropy(self.model(batch[0]).flatten(0, 1), batch[1].flatten())


@cache
def whole(tie=False):
    """(a model in float64 of four blocks, a batch of eight rows, its loss, its gradients)"""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(n_layer=4, d_model=16, d_ff=20, tie_embeddings=tie)).double()
        tokens = torch.randint(97, (8, 6))
    for p in model.parameters():
        p.data.mul_(6 if p.dim() > 1 else 1)
    batch, made = (tokens[:, :-1], tokens[:, 1:]), copy.deepcopy(model)
    loss = Exact(made)(batch)
    loss.backward()
    return model, batch, loss.item(), {name: p.grad for name, p in made.named_parameters()}


def pipeline_of(wire, model, v=1, ranges=None):
    """A rank's share of a copy of the model."""
    stages = cut(copy.deepcopy(model), wire.world * v, ranges)
    objective = Exact(stages[-1]) if wire.rank == wire.world - 1 else None
    return Pipeline(stages[wire.rank :: wire.world], wire, objective)


def stepped(wire, name, v, m, tie=False, times=1):
    model, batch, _, _ = whole(tie)
    made, orders = pipeline_of(wire, model, v), schedule(name, wire.world, m, v)
    for _ in range(times):
        total = made.step(batch, orders)
    return total.item(), {n: p.grad for n, p in made.part.named_parameters()}, made, wire.sent


def compare(found, want, times=1, what=""):
    """All ranks' gradients together are all of the model's."""
    names = [name for _, grads, *_ in found for name in grads]
    assert sorted(names) == sorted(want), "a weight lies nowhere, or twice"
    for _, grads, *_ in found:
        for name, grad in grads.items():
            close(grad, times * want[name], f"{what} {name}")


@pytest.mark.exercise("Pipeline.forward", "Pipeline.backward", "Stage.hidden")
@pytest.mark.parametrize(("name", "p", "v"), WAYS)
def test_matches_one_process(name, p, v):
    """Loss and every gradient, with four micro-batches; the messages are as many as the formula says."""
    _, _, loss, want = whole()
    found = ranks(p, stepped, name, v, 4)
    assert found[-1][0] == pytest.approx(loss, abs=1e-12) and all(total == 0 for total, *_ in found[:-1])
    compare(found, want, what=name)
    a_message = 2 * 5 * 16 * 8  # two rows, five tokens, sixteen channels, eight bytes
    assert sum(sent for *_, sent in found) == messages(schedule(name, p, 4, v)) * a_message
    assert all(not made.kept for _, _, made, _ in found), "something is kept behind the step"


@pytest.mark.exercise("Pipeline.input_part")
@pytest.mark.parametrize("p", [1, 2, 4])
def test_matches_one_process_in_two_parts(p):
    """ZB-H1: the same gradients, though those of weights come later; twice, as two batches add up."""
    _, _, loss, want = whole()
    found = ranks(p, stepped, "zb-h1", 1, 4, False, 2)
    assert found[-1][0] == pytest.approx(loss, abs=1e-12)
    compare(found, want, times=2, what="zb-h1")


@pytest.mark.exercise("Pipeline.input_part")
def test_weight_gradients_come_only_with_w():
    """When I ends, the weights of its stage have no gradient of that micro-batch yet, and W gives it."""
    model, batch, *_ = whole()
    seen = []

    def work(wire):
        made = pipeline_of(wire, model)
        weight, plain = made.stages[0].blocks["0"].ffn.w_up.weight, made.send

        def send(*args):
            seen.append(weight.grad is None)
            plain(*args)

        made.send = send
        made.step(batch, [[Action(0, kind, i) for kind in "FIW" for i in range(2)]])

    ranks(1, work)
    assert seen == [True, True, True, True, False, False]


@pytest.mark.exercise("Pipeline.sum_copies")
@pytest.mark.parametrize(("name", "p", "v"), [("1f1b", 1, 1), ("1f1b", 4, 1), ("interleaved", 2, 2)])
def test_a_tied_table_on_two_stages(name, p, v):
    """Both copies of the table have the whole gradient: what the table and what the head have seen."""
    _, _, _, want = whole(tie=True)
    found = ranks(p, stepped, name, v, 4, True)
    ends = [grads.get(key) for grads, key in ((found[0][1], "embed.weight"), (found[-1][1], "head.weight"))]
    close(ends[0], want["embed.weight"], "the first stage's copy")
    if p > 1:
        close(ends[1], want["embed.weight"], "the last stage's copy")
        assert torch.equal(*ends), "the copies would part"
    middle = found[p // 2][1] if p > 2 else {}
    for name_, grad in middle.items():
        close(grad, want[name_], name_)


@pytest.mark.exercise("Pipeline.forward", "Pipeline.backward")
def test_what_is_held_is_counted():
    """GPipe holds all micro-batches, 1F1B on rank r no more than p - r; counted while they run."""
    for name, want in (("gpipe", [8, 8, 8, 8]), ("1f1b", [4, 3, 2, 1])):
        assert [made.peak for _, _, made, _ in ranks(4, stepped, name, 1, 8)] == want


@pytest.mark.exercise("Pipeline.input_part")
def test_what_is_held_until_w_is_counted():
    """ZB-H1 holds p on every rank, because W comes later the nearer the end a rank is."""
    assert [made.peak for _, _, made, _ in ranks(4, stepped, "zb-h1", 1, 8)] == [4] * 4


def test_is_on():
    """A rank has only its own blocks, and what is between the stages really goes over the wires."""
    model, batch, *_ = whole()

    def work(wire):
        made = pipeline_of(wire, model)
        wire.log = []
        made.step(batch, schedule("1f1b", 2, 4))
        return len(made.part.blocks), len(wire.log), [slot.action for slot in made.log]

    for rank, (blocks, sent, actions) in enumerate(ranks(2, work)):
        assert blocks == 2 and sent == 4 and actions == schedule("1f1b", 2, 4)[rank]


def test_stages_that_do_not_come_out_even():
    model, batch, _, want = whole()

    def work(wire):
        made = pipeline_of(wire, model, ranges=[(0, 3), (3, 4)])
        return made.step(batch, schedule("1f1b", 2, 8)).item(), {n: p.grad for n, p in
                                                                 made.part.named_parameters()}  # fmt: skip

    compare(ranks(2, work), want)


def test_a_loss_that_is_only_looked_at():
    """Forwards alone: the same loss, nothing kept, no gradient."""
    model, batch, loss, _ = whole()

    def work(wire):
        made = pipeline_of(wire, model, v=2)
        found = made.loss(batch, forwards_only(2, 4, 2)).item()
        assert not made.kept and all(p.grad is None for p in made.part.parameters())
        assert made.peak == 0 and not made.log, "it counts as a step"
        return found

    assert ranks(2, work) == [0, pytest.approx(loss, abs=1e-12)]


def test_stages_of_a_model_in_parts():
    """A model whose matrices are cut (here in one part) goes through stages as well, with its own loss."""
    model, batch, loss, want = whole()

    def work(wire):
        stages = cut(tensor_parallel.apply(copy.deepcopy(model), ALONE), 2, [(0, 2), (2, 4)])
        objective = ParallelCausalLM(stages[1]) if wire.rank == 1 else None
        made = Pipeline([stages[wire.rank]], wire, objective)
        total = made.step(batch, schedule("zb-h1", 2, 4)).item()
        return total, {n: p.grad for n, p in made.part.named_parameters()}

    found = ranks(2, work)
    assert found[1][0] == pytest.approx(loss, abs=1e-12)
    compare(found, want)


def test_mistakes_of_the_caller():
    model, batch, *_ = whole()
    with pytest.raises(UserError, match="8 rows cannot be cut into 3"):
        ranks(1, lambda wire: pipeline_of(wire, model).step(batch, schedule("gpipe", 1, 3)))
    with pytest.raises(UserError, match="orders for 2 ranks, and there are 1"):
        ranks(1, lambda wire: pipeline_of(wire, model).step(batch, schedule("gpipe", 2, 4)))
