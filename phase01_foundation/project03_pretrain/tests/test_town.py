"""The short training that later projects compare by: its batches, its text, its judge."""

from dataclasses import replace

import pytest
import torch

from common import tokenizer as tokenizers
from common.errors import UserError
from common.model import GPT
from common.testing import tiny
from common.trial import model_folder
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import probe
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.town import HELD, LEARN, Plan, Town, ids_of

PLAN = Plan(steps=3, batch_size=2, context=8)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A town of a few ids, which are bytes."""
    tokenizer = tokenizers.load(model_folder(tmp_path_factory.mktemp("town") / "m"))
    return Town(tokenizer, 400, 301, torch.device("cpu"))


def test_text_is_pages_of_its_own_streams(town):
    """Ids of the pages of streams 1 and 2, an end behind each; neither is what the base model read."""
    stop = town.tokenizer.special["<|endoftext|>"]
    for ids, stream in ((town.learn, LEARN), (town.held, HELD)):
        first = [*town.tokenizer.encode(TinyTown().page(0, stream)), stop]
        assert ids[: len(first)].tolist() == first[: len(ids)]
    n = len(town.held)
    texts = {tuple(ids_of(town.tokenizer, stream, n).tolist()) for stream in (0, LEARN, HELD)}
    assert len(texts) == 3 and len(town.learn) == 400 and n == 301


def test_batches_are_a_pure_function_of_their_number(town):
    """The same windows in whatever order they are asked for; others for another number or another seed."""
    one, again, other = (town.batches(replace(PLAN, seed=seed)) for seed in (0, 0, 1))
    later = [again(i) for i in (5, 3, 3)]
    assert torch.equal(one(3)[0], later[1][0]) and torch.equal(one(3)[1], later[2][1])
    assert torch.equal(one(5)[0], later[0][0])
    assert not torch.equal(one(3)[0], one(4)[0]) and not torch.equal(one(3)[0], other(3)[0])
    inputs, targets = one(3)
    assert inputs.shape == targets.shape == (2, 8) and torch.equal(inputs[:, 1:], targets[:, :-1])
    places = {tuple(row) for row in town.learn.unfold(0, 9, 1).tolist()}
    assert {tuple(row) for row in torch.cat([inputs, targets[:, -1:]], 1).tolist()} <= places
    with pytest.raises(UserError, match="longer than the text"):
        town.batches(replace(PLAN, context=400))


def test_plan_says_how_much_text_it_reads():
    """As many ids as its updates can meet, and never more than two million; the warm-up a twentieth."""
    assert PLAN.text == 3 * 2 * 8 + 9 and Plan(steps=10**6).text == 2_000_000
    config = Plan(steps=200, weight_decay=0.0).train_config(torch.device("cpu"), every=50)
    assert (config.warmup, config.eval_every, config.save_every, config.weight_decay) == (10, 50, 200, 0.0)
    assert config.min_learning_rate == pytest.approx(config.learning_rate / 20)
    with pytest.raises(UserError, match="at least 1"):
        Plan(context=0)


def test_windows_hold_all_that_is_judged(town):
    """Each target once and in order, but for what is left at the end; `most`: the first so many windows."""
    windows = town.windows(8)
    assert torch.equal(torch.cat([targets.flatten() for _, targets in windows]), town.held[1 : 1 + 37 * 8])
    assert torch.equal(torch.cat([inputs.flatten() for inputs, _ in windows]), town.held[: 37 * 8])
    assert [len(inputs) for inputs, _ in windows] == [32, 5]
    assert [len(inputs) for inputs, _ in town.windows(8, most=33)] == [32, 1]


def test_loss_and_training(town, tmp_path):
    """The loss is the mean over all windows; a training lowers it, begins and ends with it, and repeats."""
    losses = []
    for name in ("one", "two"):
        torch.manual_seed(0)
        model = GPT(tiny(vocab_size=town.tokenizer.vocab_size, n_layer=1))
        before = town.loss(model, 8)
        history = town.fit(CausalLM(model), replace(PLAN, steps=12), tmp_path / name)
        assert not model.training
        steps, values = history.series("val_loss")
        assert list(steps) == [0, 12] and values[0] == pytest.approx(before, rel=0.02) and values[1] < before
        losses.append(town.loss(model, 8))
    assert losses[0] == losses[1]
    by_hand = [probe.surprise(model, [rows])["loss"] for rows in town.windows(8)]
    assert losses[0] == pytest.approx((32 * by_hand[0] + 5 * by_hand[1]) / 37, rel=1e-5)
