"""PipeDream against its equation, written out for one process; and what goes wrong without the stash."""

import copy

import pytest
import torch
from torch.func import functional_call

from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism.threads import ranks
from phase08_parallelism.project24_pipeline_parallelism.pipedream import PipeDream, updates_behind
from phase08_parallelism.project24_pipeline_parallelism.schedules import schedule
from phase08_parallelism.project24_pipeline_parallelism.stages import cut

M, LR = 6, 0.5


def model_and_stream(tie=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(n_layer=3, d_model=16, d_ff=20, tie_embeddings=tie)).double()
        tokens = torch.randint(97, (M, 6))
    for p in model.parameters():
        p.data.mul_(4 if p.dim() > 1 else 1)
    return model, (tokens[:, :-1], tokens[:, 1:])


def streamed(wire, model, batch):
    """A rank's weights and losses after the stream."""
    stages = cut(copy.deepcopy(model), wire.world)
    objective = CausalLM(stages[-1]) if wire.rank == wire.world - 1 else None
    stage = stages[wire.rank]
    optimizer = torch.optim.SGD((objective or stage).parameters(), lr=LR)
    made = PipeDream([stage], wire, objective, optimizer)
    made.step(batch, schedule("1f1b", wire.world, M))
    assert all(p.grad is None for p in stage.parameters()) and not made.kept
    return {name: p.detach() for name, p in stage.named_parameters()}, made.losses, made.peak


def by_the_equation(model, batch, p):
    """The paper's equation: micro-batch t sees stage s as it was after max(0, t - (p - 1 - s)) updates."""
    homes = {name: s for s, stage in enumerate(cut(copy.deepcopy(model), p)) for name, _ in
             stage.named_parameters()}  # fmt: skip
    versions = [{name: w.detach().clone() for name, w in model.named_parameters()}]
    losses = []
    for t in range(M):
        seen = {f"model.{name}": versions[max(0, t - (p - 1 - s))][name].clone().requires_grad_()
                for name, s in homes.items()}  # fmt: skip
        row = tuple(x[t : t + 1] for x in batch)
        loss = functional_call(CausalLM(model), seen, (row,))
        grads = dict(zip(seen, torch.autograd.grad(loss, list(seen.values())), strict=True))
        versions.append({name: w - LR * grads[f"model.{name}"] for name, w in versions[t].items()})
        losses.append(loss.item())
    return versions[-1], losses


@pytest.mark.exercise("PipeDream.forward", "PipeDream.backward")
@pytest.mark.parametrize("p", [1, 2, 3])
def test_matches_the_equation(p):
    """Weights after six updates, and the loss of each micro-batch; with one stage it is plain SGD."""
    model, batch = model_and_stream()
    want, losses = by_the_equation(model, batch, p)
    found = ranks(p, streamed, model, batch)
    assert found[-1][1] == pytest.approx(losses, abs=1e-9)
    for weights, _, _ in found:
        for name, weight in weights.items():
            close(weight, want[name], f"{name} on {p} ranks", rtol=1e-9, atol=1e-9)
            assert (weight - dict(model.named_parameters())[name]).abs().max() > 1e-6, f"{name} never moved"


@pytest.mark.exercise("PipeDream.forward", "PipeDream.backward")
def test_as_many_copies_as_micro_batches_under_way():
    model, batch = model_and_stream()
    assert [peak for _, _, peak in ranks(3, streamed, model, batch)] == [3, 2, 1]
    assert [updates_behind(3, stage) for stage in range(3)] == [2, 1, 0]


def test_a_stream_differs_from_batches_one_after_another():
    """Staleness is real: on three stages the weights are others than on one."""
    model, batch = model_and_stream()
    (alone, _, _), *_ = ranks(1, streamed, model, batch)
    behind = ranks(3, streamed, model, batch)[0][0]
    assert max((behind[name] - alone[name]).abs().max() for name in behind) > 1e-3


def test_a_tied_model_is_refused():
    model, batch = model_and_stream(tie=True)
    with pytest.raises(UserError, match="untie"):
        ranks(2, streamed, model, batch)
