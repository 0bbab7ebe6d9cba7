"""A model in stages is the model; the cut is the best there is; a backward pass in two parts adds up."""

import copy
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project24_pipeline_parallelism import split, stages
from phase08_parallelism.project24_pipeline_parallelism.stages import Part, costs_of, cut


def model_and_batch(**sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(**{"n_layer": 3, "d_model": 16, "d_ff": 20, **sizes})).double()
        tokens = torch.randint(97, (2, 8))
    for p in model.parameters():
        p.data.mul_(6 if p.dim() > 1 else 1)
    return model, (tokens[:, :-1], tokens[:, 1:])


def runs(costs, ranges):
    return [sum(costs[start:stop]) for start, stop in ranges]


@pytest.mark.exercise("partition")
@settings(max_examples=40, deadline=None)
@given(costs=st.lists(st.integers(1, 9), min_size=1, max_size=7), parts=st.integers(1, 7))
def test_matches_every_way_to_cut(costs, parts):
    """The dearest run is as cheap as the best of all ways; every cost is in one run, in its order."""
    n = len(costs)
    if parts > n:
        with pytest.raises(UserError, match=f"{n} blocks cannot be shared out over {parts}"):
            stages.partition(costs, parts)
        return
    ranges = stages.partition(costs, parts)
    assert [i for ends in ranges for i in range(*ends)] == list(range(n)) and len(ranges) == parts
    every = [list(zip((0, *at), (*at, n), strict=True)) for at in combinations(range(1, n), parts - 1)]
    assert min(runs(costs, ranges)) > 0
    assert max(runs(costs, ranges)) == min(max(runs(costs, each)) for each in every)


def test_the_head_counts():
    model, _ = model_and_batch()
    block = sum(p.numel() for p in model.blocks[0].parameters() if p.dim() > 1)
    assert costs_of(model) == [block, block, block + 97 * 16]


@pytest.mark.exercise("Stage.hidden")
def test_matches_the_model():
    """One behind the other the stages give the model's logits; what comes before the head is `hidden`'s."""
    model, (tokens, _) = model_and_batch()
    want, before = model(tokens), model.hidden(tokens)
    for ranges in ([(0, 3)], [(0, 1), (1, 3)], [(0, 1), (1, 2), (2, 3)]):
        x = tokens
        *front, last = cut(copy.deepcopy(model), len(ranges), ranges)
        for stage in front:
            x = stage(x)
            assert x.shape == (*tokens.shape, 16)
        close(last.hidden(x), before, f"hidden of {ranges}")
        close(last(x), want, f"logits of {ranges}")


def test_names_are_those_of_the_whole_model():
    """Every weight lies in one stage, under its own name, and is the model's own tensor."""
    model, _ = model_and_batch()
    whole = dict(model.named_parameters())
    first, second, third = cut(model, 3)
    part = Part([first, third])
    assert {name for name, _ in part.named_parameters()} == {
        name for name in whole if not name.startswith("blocks.1.")
    }
    assert [name for name, _ in second.named_parameters()] == [n for n in whole if n.startswith("blocks.1.")]
    assert all(p is whole[name] for name, p in [*part.named_parameters(), *second.named_parameters()])


def gradients(model, batch, notes=None):
    CausalLM(model)(batch).backward()
    if notes is not None:
        split.weight_part(notes)
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.exercise("Split.backward", "weight_part")
@pytest.mark.parametrize("tie", [False, True])
def test_matches_autograd_in_two_parts(tie):
    """Every gradient, of two micro-batches one after the other, beside plain autograd's."""
    model, batch = model_and_batch(tie_embeddings=tie)
    mine = copy.deepcopy(model)
    notes = split.split(mine)
    for i in range(2):
        want, found = gradients(model, batch), gradients(mine, batch, notes)
        assert found.keys() == want.keys() and notes == []
        for name, grad in found.items():
            close(grad, want[name], f"{name}, micro-batch {i}")


@pytest.mark.exercise("Split.backward")
def test_the_input_part_computes_no_weight_gradient():
    """After backward the input's gradient is there, the weight's is not: it is written down."""
    linear, x = nn.Linear(3, 2).double(), torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    holder = nn.Sequential(linear)
    notes = split.split(holder)
    holder(x).square().sum().backward()
    assert linear.weight.grad is None and len(notes) == 1
    close(linear.bias.grad, 2 * (x @ linear.weight.T + linear.bias).sum((0, 1)), "bias")
    close(x.grad, 2 * (x @ linear.weight.T + linear.bias) @ linear.weight, "input")


@pytest.mark.exercise("weight_part")
def test_the_weight_part_by_hand():
    """Summed over rows and tokens; added to what is there."""
    weight = nn.Parameter(torch.zeros(2, 3))
    x, dy = torch.ones(2, 2, 3), torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    notes = [(weight, x, dy)]
    split.weight_part(notes)
    assert weight.grad.tolist() == [[16.0] * 3, [20.0] * 3] and notes == []
    split.weight_part([(weight, x, dy), (weight, x, dy)])
    assert weight.grad.tolist() == [[48.0] * 3, [60.0] * 3]
