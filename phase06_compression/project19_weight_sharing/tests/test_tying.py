"""A tie is one Parameter: its names, its gradient, its place in the file and in the optimiser, and what it
saves."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common import hub
from common.errors import UserError
from common.hub_names import FAMILIES
from common.model import GPT, set_attend, untie
from common.recipe import parameter_groups
from common.testing import close, tiny
from phase06_compression.project19_weight_sharing import tying
from phase06_compression.project19_weight_sharing.tying import (
    count,
    count_names,
    flops,
    names,
    strays,
    tie,
    tied_share,
    twins,
)

SMALL = {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "layer_norm_epsilon": 1e-5,
         "activation_function": "gelu_new"}  # fmt: skip


def untied(seed=0, **sizes):
    """A tiny GPT in float64 and some tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT(tiny(**sizes)).double(), torch.randint(97, (2, 9))


def loss_of(model, tokens):
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


# ---- counting ----


@pytest.mark.exercise("names")
def test_names_of_what_is_shared():
    """Every name of every Parameter, in the model's order; of a block that is used twice as well."""
    model, _ = untied(n_layer=3)
    model.head.weight = model.embed.weight
    model.blocks[2] = model.blocks[0]
    found = names(model)
    assert found[model.embed.weight] == ["embed.weight", "head.weight"]
    assert found[model.blocks[0].attn.wq.weight] == ["blocks.0.attn.wq.weight", "blocks.2.attn.wq.weight"]
    assert found[model.blocks[1].attn.wq.weight] == ["blocks.1.attn.wq.weight"]
    assert list(found) == list(model.parameters())
    assert sum(map(len, found.values())) == 3 * 9 + 3


@pytest.mark.exercise("names")
def test_count_of_gpt2():
    """The published size of GPT-2 small, 124,439,808; by names 163,037,184 are found."""
    with torch.device("meta"):
        model = FAMILIES["gpt2"].build({"vocab_size": 50_257, "tie_word_embeddings": True, **SMALL})
    assert (count(model), count_names(model)) == (124_439_808, 163_037_184)
    assert count(untie(model)) == 163_037_184


@pytest.mark.exercise("tied_share")
def test_share_that_a_tie_saves():
    """23.7 % of GPT-2 small, 7.6 % with 10,000 tokens; a half where there is nothing else."""
    rest = 163_037_184 - 2 * 50_257 * 768
    assert tied_share(50_257, 768, rest) == pytest.approx((163_037_184 - 124_439_808) / 163_037_184)
    assert [round(tied_share(V, 768, rest), 3) for V in (50_257, 10_000)] == [0.237, 0.076]
    assert tied_share(10, 4, 0) == 0.5


@pytest.mark.exercise("tied_share", "names", "tie")
def test_share_is_what_a_tie_saves():
    """Counted before and after, in models with other proportions."""
    for sizes in ({}, {"d_model": 16, "n_layer": 1}, {"vocab_size": 500, "d_ff": 8}):
        model, _ = untied(**sizes)
        whole, table = count(model), model.embed.weight.numel()
        share = tied_share(*model.embed.weight.shape, whole - 2 * table)
        assert whole - count(tie(model)) == table == pytest.approx(share * whole)


@pytest.mark.exercise("flops")
def test_matches_the_flops_that_torch_counts():
    """torch's own counter, one token, attention's products left out; plain, tied, and with a shared block."""
    for change in (lambda m: m, lambda m: setattr(m.head, "weight", m.embed.weight),
                   lambda m: m.blocks.__setitem__(1, m.blocks[0])):  # fmt: skip
        model, tokens = untied()
        change(set_attend(model, lambda q, k, v, **where: q))
        with FlopCounterMode(display=False) as counter:
            model(tokens[:1, :1])
        assert flops(model) == counter.get_total_flops() > 0


# ---- the tie ----


@pytest.mark.exercise("tie")
def test_tie_is_one_parameter():
    """The same object under two names, with the embedding's values; also after a copy and a cast."""
    model, tokens = untied()
    table, rows = model.embed.weight, model.embed.weight.detach().clone()
    assert tie(model) is model and model.config.tie_embeddings
    assert model.head.weight is table is model.embed.weight and torch.equal(table, rows)
    for made in (copy.deepcopy(model), copy.deepcopy(model).float()):
        assert made.head.weight is made.embed.weight
    close(model(tokens), model.hidden(tokens) @ rows.T, "logits by the table")


@pytest.mark.exercise("tie")
def test_matches_two_tables_with_summed_gradients():
    """The naive version: two tables of equal values; the tie's gradient is the sum of theirs."""
    model, tokens = untied()
    tied = tie(copy.deepcopy(model))
    model.head.weight.data.copy_(model.embed.weight.data)
    for each in (model, tied):
        loss_of(each, tokens).backward()
    assert model.embed.weight.grad.norm() > 0 and model.head.weight.grad.norm() > 0
    close(tied.embed.weight.grad, model.embed.weight.grad + model.head.weight.grad, "gradient of the tie")
    close(tied.blocks[0].ffn.w_up.weight.grad, model.blocks[0].ffn.w_up.weight.grad, "gradient in the blocks")


@pytest.mark.exercise("tie")
def test_is_on():
    """After an update both ends are still one table; two tables of equal values are no longer equal."""
    model, tokens = untied()
    equal = copy.deepcopy(model)
    equal.head.weight.data.copy_(equal.embed.weight.data)
    for each in (tie(model), equal):
        optimizer = torch.optim.AdamW(each.parameters(), lr=1e-2)
        loss_of(each, tokens).backward()
        optimizer.step()
    assert torch.equal(model.head.weight, model.embed.weight)
    assert not torch.allclose(equal.head.weight, equal.embed.weight)


@pytest.mark.exercise("tie")
def test_a_tie_is_saved_once(tmp_path):
    """The file has no head; the folder says that it is tied, and loads tied, with the same logits."""
    model, tokens = untied()
    tie(model)
    hub.save(model, tmp_path / "m")
    file = load_file(tmp_path / "m" / "model.safetensors")
    assert "lm_head.weight" not in file and sum(t.numel() for t in file.values()) == count(model)
    again = hub.load(tmp_path / "m")
    assert again.head.weight is again.embed.weight and torch.equal(again(tokens), model(tokens))


@pytest.mark.exercise("tie")
def test_ties_of_unlike_shapes_are_refused():
    """A head of other classes, and an embedding of another width; nothing is changed by the refusal."""
    model, _ = untied()
    head = model.head.weight
    for shape in ((98, 32), (97, 16), (32, 97)):
        model.embed.weight = nn.Parameter(torch.zeros(shape))
        with pytest.raises(UserError, match=r"a tie is one matrix.*factorise"):
            tie(model)
        assert model.head.weight is head and not model.config.tie_embeddings


# ---- the optimiser ----


@pytest.mark.exercise("strays", "tie")
def test_strays_of_a_tie_that_came_late():
    """Made before the tie, an optimiser holds the head that is gone; made after, nothing but the model."""
    model, _ = untied()
    head, early = model.head.weight, torch.optim.AdamW(model.parameters())
    assert strays(model, early) == set()
    tie(model)
    assert strays(model, early) == {head}
    with pytest.raises(UserError, match=r"holds 1 parameters that the model no longer has"):
        tying.check(model, early)
    late = torch.optim.AdamW(parameter_groups(model, 0.1))
    assert strays(model, late) == set()
    tying.check(model, late)
    assert sum(p.numel() for group in late.param_groups for p in group["params"]) == count(model)


@pytest.mark.exercise("strays")
def test_strays_in_any_group():
    """Of layers that were shared late, wherever in the optimiser's groups they lie."""
    model, _ = untied(n_layer=3)
    lost = set(model.blocks[2].parameters())
    model.head.requires_grad_(False)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1), lr=0.1)
    model.blocks[2] = model.blocks[0]
    assert strays(model, optimizer) == lost and len(optimizer.param_groups) == 2


def test_two_parameters_in_one_memory_are_found():
    """A tie by `.data`: no stray, and wrong, as each update is made twice. One that lacks some."""
    model, tokens = untied()
    model.head.weight.data = model.embed.weight.data
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    assert twins(model) == [("embed.weight", "head.weight")] and strays(model, optimizer) == set()
    with pytest.raises(UserError, match="two Parameters in one memory"):
        tying.check(model, optimizer)
    right = tie(copy.deepcopy(model))
    before = right.embed.weight.detach().clone()
    for each, made in ((model, optimizer), (right, torch.optim.AdamW(right.parameters(), lr=1e-2))):
        loss_of(each, tokens).backward()
        made.step()
    twice, once = ((each.embed.weight - before).abs().max() for each in (model, right))
    assert once < 1.1e-2 and twice > 1.8e-2  # AdamW's first step is the rate
    assert twins(right) == []
    with pytest.raises(UserError, match="does not hold"):
        tying.check(right, torch.optim.AdamW(right.blocks.parameters()))
