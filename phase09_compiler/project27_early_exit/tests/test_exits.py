"""Ways out, measures and rules beside `transformers` and torch; decoding beside the version that saves
nothing.
"""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common import hub
from common.errors import UserError
from common.model import GPT
from common.testing import tiny, trained
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode
from phase09_compiler.project27_early_exit import exits
from phase09_compiler.project27_early_exit.exits import (
    Look,
    Patience,
    Rule,
    Sure,
    Together,
    certainty,
    confidence,
    early_exit,
    exit_logits,
    margin,
    probed,
    restore,
)
from phase09_compiler.project27_early_exit.kv_fill import Lagging, bound, decode_early


def with_exits(model, layers):
    """Ways out whose translators and probes say something, though nobody trained them."""
    restore(model, layers)
    draw = torch.Generator().manual_seed(0)
    for parameter in model.exits.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw).to(parameter) / 8
    return model


MODEL = with_exits(trained(n_layer=4, steps=60), (1, 2, 3))
TOKENS = torch.tensor([[3, 5, 7, 9, 11, 13, 4, 8, 12, 16, 20, 1], [1, 2, 3, 9, 9, 9, 4, 4, 30, 29, 28, 2]])


class Given(Rule):
    """Lets tokens go as a table says: (B, T), after how many blocks."""

    def __init__(self, table):
        self.table = table

    def __call__(self, look):
        return self.table == look.n


class Scripted(Rule):
    """The same for a step: the next token of the row leaves after `depths` blocks, one after the other."""

    def __init__(self, depths):
        self.depths = iter(depths)

    def begin(self):
        self.depth = next(self.depths)

    def __call__(self, look):
        return torch.full(look.x.shape[:-1], look.n == self.depth)


def look_at(logits):
    """A look at a way out that says so."""
    look = Look(None, 1, None)
    look.logits = logits
    return look


# ---- ways out ----


def test_matches_transformers_with_fewer_layers(tmp_path):
    """A model cut off after n blocks, in `transformers`: its logits are an untrained way out's."""
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(n_layer=3)).eval()
    model.norm.weight.data.uniform_(0.5, 2)
    hub.save(model, tmp_path)
    restore(model, (1, 2))
    tokens = TOKENS + 40
    for n in (1, 2):
        short = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, num_hidden_layers=n)
        whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_hidden_states=True)
        with torch.no_grad():
            logits, states = early_exit(model, tokens, Given(torch.full_like(tokens, n)))[0], whole(tokens)
            assert torch.allclose(logits, short(tokens).logits, atol=1e-5), n
            assert torch.allclose(exit_logits(model, n, states.hidden_states[n]), logits, atol=1e-5), n


@pytest.mark.exercise("exit_logits")
def test_translators_are_added_and_the_top_has_none():
    """What a block would add by its own norm and feed-forward, moved over from one: x + ffn(norm(x))."""
    x = torch.randn(2, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model, block = copy.deepcopy(MODEL), MODEL.blocks[3]
    model.exits.translate["2"][0].load_state_dict(block.norm_ffn.state_dict())
    model.exits.translate["2"][1].load_state_dict(block.ffn.state_dict())
    plain = copy.deepcopy(block)
    plain.attn.wo.weight.data.zero_()  # a block whose attention adds nothing
    y = plain(x, rope=None, positions=torch.arange(3))
    assert torch.allclose(exit_logits(model, 2, x), model.head(model.norm(y)), atol=1e-10)
    assert torch.allclose(exit_logits(model, 4, x), model.head(model.norm(x)), atol=1e-12)


def test_a_folder_with_ways_out(tmp_path):
    """It names its surgery, is refused without restore, and loads with it."""
    model = copy.deepcopy(MODEL).float()
    hub.save(model, tmp_path)
    with pytest.raises(UserError, match="project27_early_exit"):
        hub.load(tmp_path)
    again = hub.load(tmp_path, restore={"project27_early_exit": restore})
    assert again.exits.layers == (1, 2, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_bad_ways_out_are_refused():
    for layers in ((), (0, 1), (4,), (2, 1), (2, 2)):
        with pytest.raises(UserError, match="rising, from 1 to 3"):
            restore(copy.deepcopy(MODEL), layers)
    with pytest.raises(UserError, match="no measure is called luck"):
        Sure("luck", 0.5)
    with pytest.raises(UserError, match="at least 1"):
        Patience(0)


# ---- measures ----


@pytest.mark.exercise("margin", "certainty")
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_measures_beside_torch(scale):
    """torch's categorical distribution: its largest share, the two largest, its entropy."""
    logits = scale * torch.randn(2, 5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = torch.distributions.Categorical(logits=logits)
    shares = truth.probs.sort(-1, descending=True).values
    found = confidence(look_at(logits)), margin(look_at(logits)), certainty(look_at(logits))
    wanted = shares[..., 0], shares[..., 0] - shares[..., 1], 1 - truth.entropy() / math.log(11)
    for got, want in zip(found, wanted, strict=True):
        assert torch.allclose(got, want, atol=1e-12) and got.min() > -1e-12 and got.max() < 1 + 1e-12


def test_the_probe_needs_no_logits(monkeypatch):
    """Its chance, from the state alone; a rule by it never asks the head."""
    monkeypatch.setattr(exits, "exit_logits", None)
    look = Look(MODEL, 2, torch.randn(1, 3, 32, dtype=torch.float64))
    layer = MODEL.exits.probe["2"]
    want = torch.sigmoid(look.x @ layer.weight[0] + layer.bias)
    assert torch.allclose(probed(look), want) and Sure("probe", 0.5)(look).shape == (1, 3)


@pytest.mark.exercise("Patience.__call__")
def test_patience_counts_the_same_answers_in_a_row():
    """Likeliest ids at four ways out, for three tokens; each leaves where it said the same three times."""
    ids = torch.tensor([[7, 7, 7, 7], [7, 5, 5, 5], [7, 7, 5, 5]])
    rule = Patience(3)
    for _ in range(2):  # the second token begins anew
        rule.begin()
        looks = [rule(look_at(torch.nn.functional.one_hot(ids[:, i], 9).double())) for i in range(4)]
        assert torch.stack(looks, 1).tolist() == [
            [False, False, True, True],
            [False] * 3 + [True],
            [False] * 4,
        ]
    rule = Patience(1)
    rule.begin()
    assert rule(look_at(torch.eye(3))).all()


# ---- the version that saves nothing ----


@pytest.mark.exercise("early_exit")
def test_who_never_leaves_is_the_plain_model():
    logits, left = early_exit(MODEL, TOKENS, Rule())
    assert torch.allclose(logits, MODEL(TOKENS), atol=1e-10) and (left == 4).all()


@pytest.mark.exercise("early_exit")
def test_who_has_left_stands_still():
    """Block by block, written out for each token: what it attends to, and what the others see of it."""
    table = torch.tensor([[1, 4, 2, 3, 1, 1, 2, 4, 3, 1, 2, 4], [2, 2, 2, 4, 1, 3, 3, 1, 4, 4, 1, 3]])
    logits, left = early_exit(MODEL, TOKENS, Given(table))
    assert torch.equal(left, table)
    for b in range(2):
        states = [MODEL.embed(TOKENS[b : b + 1], None)[0, t] for t in range(12)]
        for n, block in enumerate(MODEL.blocks, 1):
            rows = torch.stack(states)[None]
            positions = torch.arange(12)
            new = block(rows, rope=MODEL.rope(positions), positions=positions)[0]
            states = [new[t] if table[b, t] >= n else states[t] for t in range(12)]
        for t, x in enumerate(states):
            x = x if table[b, t] == 4 else x + MODEL.exits.translate[str(int(table[b, t]))](x)
            assert torch.allclose(logits[b, t], MODEL.head(MODEL.norm(x)), atol=1e-9), (b, t)


@pytest.mark.exercise("early_exit")
def test_nobody_leaves_before_the_start_nor_twice():
    """A rule that lets everybody go: those from the start on leave at the first way out it is asked at."""
    rule = Sure("confidence", 0.0, layers=(2, 3))
    _, left = early_exit(MODEL, TOKENS, rule, start=5)
    assert left.tolist() == [[4] * 5 + [2] * 7] * 2


# ---- decoding ----


@pytest.mark.exercise("Lagging.step", "Lagging.catch_up")
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=8, max_size=8))
def test_matches_the_version_that_saves_nothing(depths):
    """Any order of depths: ids, logits and keys are those of the naive version over the finished text."""
    prompt = TOKENS[:1, :4]
    caches, seen = Lagging(MODEL, 1, 16), []
    ids, left = decode_early(MODEL, prompt, 9, Scripted(depths), caches=caches,
                             choose=lambda logits, i: seen.append(logits) or logits.argmax(-1))  # fmt: skip
    assert left == depths and caches.length == 12
    row = torch.cat((prompt, ids), 1)[:, :12]
    table = torch.tensor([[4] * 4 + depths])
    logits, _ = early_exit(MODEL, row, Given(table), start=4)
    assert torch.allclose(torch.stack(seen, 1), logits[:, 3:], atol=1e-9)
    for i, cache in enumerate(caches.caches):  # nobody lags but those that nobody asked
        last = max([4] + [4 + t + 1 for t, depth in enumerate(depths) if depth > i])
        assert cache.length == last, i


@pytest.mark.exercise("Lagging.step", "Lagging.catch_up")
def test_blocks_above_are_really_left_out(monkeypatch):
    """Which blocks are computed, of how many states each cache makes up, and that nothing is made twice."""
    model, computed, filled = copy.deepcopy(MODEL), [], []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, i=i: computed.append(i))
        block.norm_attn.register_forward_hook(lambda m, x, y, i=i: filled.append((i, y.size(1))))
    caches = Lagging(model, 1, 12)
    caches.prefill(TOKENS[:1, :3])
    computed.clear(), filled.clear()
    for depth in (2, 1, 1, 4):
        caches.step(torch.tensor([[5]]), Scripted([depth]))
    assert computed == [0, 1, 0, 0, 0, 1, 2, 3]
    assert filled == [(0, 1), (1, 1), (0, 1), (0, 1), (0, 1), (1, 2), (1, 1), (2, 3), (2, 1), (3, 3), (3, 1)]


@pytest.mark.exercise("Lagging.step")
def test_a_batch_waits_for_its_last():
    """Rows leave together; who would have left before says what it says where all leave."""
    rule = Sure("probe", 0.5)
    ids, left = decode_early(MODEL, TOKENS, 8, rule)
    row = torch.cat((TOKENS, ids), 1)[:, :19]
    logits, table = early_exit(MODEL, row, Together(rule), start=12)
    assert left == table[0, 12:].tolist() == table[1, 12:].tolist() and len({*left}) > 1
    assert torch.equal(ids, logits[:, 11:].argmax(-1))


@pytest.mark.exercise("Lagging.step")
def test_who_never_leaves_decodes_as_ever():
    plain = decode(MODEL, TOKENS, 10, caches_for(MODEL, KVCache, 2, 22))
    ids, left = decode_early(MODEL, TOKENS, 10, Rule())
    assert torch.equal(ids, plain) and left == [4] * 9


@pytest.mark.exercise("Lagging.step")
def test_is_on():
    """A rule that lets everybody go changes what is written, and every step ends after one block."""
    plain = decode(MODEL, TOKENS, 10, caches_for(MODEL, KVCache, 2, 22))
    ids, left = decode_early(MODEL, TOKENS, 10, Sure("margin", 0.0))
    assert left == [1] * 9 and not torch.equal(ids, plain) and torch.equal(ids[:, 0], plain[:, 0])


def test_a_context_that_is_too_short_is_refused():
    with pytest.raises(UserError, match="context of 64"):
        decode_early(MODEL, TOKENS, 60, Rule())


def test_bound_by_hand():
    """Six blocks, a head of three, left after two and four: 9 to 6; with two looks of a half: 7; and a
    translator of a quarter, once more for each that left before the top."""
    assert bound([2, 4], 6, head=3.0) == pytest.approx(9 / 6)
    assert bound([2, 4], 6, head=3.0, check=0.5, checks=2) == pytest.approx(9 / 7)
    assert bound([2, 4], 6, 3.0, 0.5, 2, turn=0.25) == pytest.approx(9 / 7.25)
    assert bound([2, 6], 6, 3.0, turn=0.5) == pytest.approx(9 / 7.25)
