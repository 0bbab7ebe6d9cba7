"""Masks by magnitude and their schedule, beside torch's own pruning; zeros that stay zeros in training."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from common.errors import UserError
from common.model import GPT
from common.testing import tiny
from common.training import TrainConfig, train
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase05_quantization.project14_ptq import rtn
from phase06_compression.project17_pruning import magnitude
from phase06_compression.project17_pruning.magnitude import (
    Gradual,
    Masked,
    by_layer,
    cubic,
    globally,
    hold,
    kept,
    largest,
    matrices,
    n_of_m,
    settle,
    sparsity_of,
)


def model_of(**sizes):
    torch.manual_seed(0)
    return GPT(tiny(**sizes)).eval()


def weights_of(model):
    return {name: matrix.weight.detach() for name, matrix in matrices(model).items()}


# ---- which ----


@pytest.mark.exercise("largest")
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.data())
def test_the_largest_stay_exactly_as_many(values, data):
    """Also among equals, of which the first stay."""
    keep = data.draw(st.integers(0, len(values)))
    mask = largest(torch.tensor([values, values[::-1]]).float(), keep)
    assert mask.dtype == torch.bool and mask.sum(1).tolist() == [keep, keep]
    order = sorted(range(len(values)), key=lambda i: -values[i])  # Python's sort is stable
    assert mask[0].tolist() == [i in order[:keep] for i in range(len(values))]


@pytest.mark.exercise("largest")
def test_scores_that_are_nan_are_refused():
    with pytest.raises(UserError, match="NaN"):
        largest(torch.tensor([1.0, float("nan")]), 1)


@pytest.mark.exercise("by_layer")
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_matches_torch_within_layers(sparsity):
    """torch.nn.utils.prune, matrix by matrix."""
    model = model_of()
    weights = weights_of(model)
    weights["blocks.0.attn.wq"] = weights["blocks.0.attn.wq"] * 100  # its scale is its own affair
    masks = by_layer(weights, sparsity)
    assert list(masks) == list(weights)
    for name, w in weights.items():
        theirs = prune.L1Unstructured(amount=sparsity).compute_mask(w, torch.ones_like(w))
        assert torch.equal(masks[name], theirs.bool()), name
        assert masks[name].sum() == kept(w.numel(), sparsity)


@pytest.mark.exercise("globally")
def test_matches_torch_over_the_model():
    """torch.nn.utils.prune.global_unstructured; and matrices of small weights lose more."""
    model = model_of()
    with torch.no_grad():
        model.blocks[0].ffn.w_up.weight.mul_(0.1)
    weights = weights_of(model)
    masks = globally(weights, 0.5)
    theirs = copy.deepcopy(model)
    pairs = [(matrix, "weight") for matrix in matrices(theirs).values()]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.5)
    for name, matrix in matrices(theirs).items():
        assert torch.equal(masks[name], matrix.weight_mask.bool()), name
    n = sum(w.numel() for w in weights.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == kept(n, 0.5)
    assert masks["blocks.0.ffn.w_up"].float().mean() < 0.2 < masks["blocks.1.ffn.w_up"].float().mean()


@pytest.mark.exercise("n_of_m")
def test_matches_torch_two_of_four():
    """torch.ao.pruning's sparsifier for tensor cores: two of every four neighbours of a row."""
    from torch.ao.pruning import WeightNormSparsifier

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 24, bias=False))
    w = model[0].weight.detach().clone()
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    mask = n_of_m(w.abs())
    assert torch.equal(mask, model[0].parametrizations.weight[0].mask.bool())
    assert (mask.unflatten(1, (-1, 4)).sum(-1) == 2).all()
    assert (n_of_m(w.abs(), 1, 8).unflatten(1, (-1, 8)).sum(-1) == 1).all()


@pytest.mark.exercise("n_of_m")
def test_patterns_that_are_none():
    for n, m, why in ((0, 4, "no pattern"), (4, 4, "no pattern"), (2, 5, "do not divide")):
        with pytest.raises(UserError, match=why):
            n_of_m(torch.rand(3, 8), n, m)


@pytest.mark.parametrize("sparsity", [0, 0.0, 1, 1.0, -0.5, 1.5, float("nan")])
def test_nothing_and_everything_are_refused(sparsity):
    """0 % prunes nothing, 100 % leaves no model: neither is done silently."""
    with pytest.raises(UserError, match="no sense"):
        magnitude.apply(model_of(), sparsity)


# ---- when ----


@pytest.mark.exercise("cubic")
@pytest.mark.filterwarnings("ignore:To get the last sparsity", "ignore:Detected call of")
def test_matches_torch_s_cubic_schedule():
    """torch.ao.pruning.CubicSL, and by hand: half way, seven eighths are gone."""
    from torch.ao.pruning import CubicSL, WeightNormSparsifier

    model = nn.Sequential(nn.Linear(4, 4))
    sparsifier = WeightNormSparsifier(sparsity_level=0.8)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    schedule = CubicSL(sparsifier, init_sl=0.1, init_t=3, total_t=20, delta_t=1, initially_zero=False)
    for update in range(28):
        theirs = schedule.get_sl()[0]
        assert cubic(update, last=23, final=0.8, first=3, start=0.1) == pytest.approx(theirs), update
        schedule.step()
    assert cubic(5, 10, 0.8) == pytest.approx(0.7) and cubic(0, 10, 0.8) == 0 and cubic(99, 10, 0.8) == 0.8


# ---- zeros that stay ----


def test_masked_weights_are_zero_and_get_no_gradient():
    """In the product and backwards; settled, the model is a plain one that computes the same."""
    model, tokens = model_of(), torch.arange(12)[None]
    want = model(tokens)
    hold(model, by_layer(weights_of(model), 0.5))
    got = model(tokens)
    assert not torch.equal(got, want)
    got.square().sum().backward()
    for name, layer in matrices(model).items():
        assert isinstance(layer, Masked), name
        assert (layer.weight.grad[~layer.mask] == 0).all() and (layer.weight.grad[layer.mask] != 0).any()
    settle(model)
    assert {type(matrix) for matrix in matrices(model).values()} == {nn.Linear}
    assert torch.equal(model(tokens), got) and sparsity_of(model) == pytest.approx(0.5)
    assert not any("mask" in name for name in model.state_dict())


def test_is_on():
    """Pruned, the model says something else, and its zeros are where the small weights were."""
    model, tokens = model_of(), torch.arange(12)[None]
    before = copy.deepcopy(model)
    magnitude.apply(model, 0.5)
    assert (model(tokens) - before(tokens)).abs().max() > 1e-4
    for name, matrix in matrices(model).items():
        old = matrices(before)[name].weight
        assert old[matrix.weight == 0].abs().max() <= old[matrix.weight != 0].abs().min()
        assert torch.equal(matrix.weight[matrix.weight != 0], old[matrix.weight != 0]), name


def test_masks_of_another_model_are_refused():
    masks = by_layer(weights_of(model_of(d_ff=64)), 0.5)
    for other in (model_of(), model_of(n_layer=1, d_ff=64)):
        with pytest.raises(UserError, match="belong to another model"):
            hold(other, masks)
        assert not any(isinstance(matrix, Masked) for matrix in matrices(other).values())
    with pytest.raises(UserError, match="no matrices to prune"):
        magnitude.apply(rtn.apply(model_of(), 8), 0.5)


class Batches:
    """batch_at(i): two rows of random tokens, a pure function of i."""

    def __call__(self, i):
        rows = torch.randint(97, (2, 13), generator=torch.Generator().manual_seed(i))
        return rows[:, :-1], rows[:, 1:]


def gradual_of(model):
    return Gradual(CausalLM(model), model, 0.75, last=8, first=2, every=3)


def test_gradual_pruning_rises_and_nothing_comes_back():
    """While it trains: the shares are the schedule's, the masks are nested; evaluation changes nothing."""
    model, seen = model_of(), []
    objective = gradual_of(model)
    objective.train()
    for i in range(12):
        objective(Batches()(i)).backward()
        masks = torch.cat([layer.mask.flatten() for layer in objective.layers.values()])
        seen.append(masks)
        objective.zero_grad()
        objective.eval()
        objective(Batches()(i))
        objective.train()
    shares = [1 - mask.float().mean().item() for mask in seen]
    due = [0.0] * 5 + [cubic(5, 8, 0.75, 2)] * 3 + [0.75] * 4
    assert shares == pytest.approx(due, abs=1e-3)
    assert all((later <= mask).all() for mask, later in pairwise(seen))
    assert int(objective.update) == 12


def test_gradual_pruning_goes_on_as_it_would_have_gone_on(tmp_path):
    """A run that was stopped and resumed has the weights, masks and count of one that was not."""

    class Enough(Exception):
        pass

    class Stopping(Batches):
        def __call__(self, i):
            if i == 6:
                raise Enough
            return super().__call__(i)

    def run(folder, batches, **how):
        objective = gradual_of(model_of()).train()
        config = TrainConfig(steps=10, warmup=0, save_every=3, log_every=5)
        train(objective, batches, config, folder=folder, say=lambda line: None, **how)
        return objective

    whole = run(tmp_path / "whole", Batches())
    with pytest.raises(Enough):
        run(tmp_path / "parts", Stopping())
    parts = run(tmp_path / "parts", Batches(), resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
    left = torch.cat([layer.mask.flatten() for layer in parts.layers.values()])
    assert left.float().mean() == pytest.approx(0.25, abs=1e-3)


def test_schedules_that_are_none():
    for first, last, every in ((5, 5, 1), (0, 8, 0), (-1, 8, 1)):
        with pytest.raises(UserError, match="no schedule"):
            Gradual(nn.Identity(), model_of(), 0.5, last, first, every)


def test_zeros_are_counted():
    model = model_of()
    assert sparsity_of(model) == 0
    magnitude.apply(model, 0.9, globally)
    assert sparsity_of(model) == pytest.approx(0.9, abs=1e-3)
