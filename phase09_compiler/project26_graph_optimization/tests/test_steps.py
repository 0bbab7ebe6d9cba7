"""The whole step, rewritten: beside the model, its caches, other dresses; what is refused; what is on."""

import copy

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.model import GPT
from common.testing import tiny, trained
from common.trial import unplugged
from common.variants import gpt2
from phase03_core_inference.project08_kv_cache.kv_cache import (
    KVCache,
    StaticCache,
    caches_for,
    decode,
    decode_ragged,
)
from phase09_compiler.project26_graph_optimization import kernels, plan
from phase09_compiler.project26_graph_optimization.capture import (
    breaks,
    capture,
    computing,
    counted,
    graph_of,
    name_of,
    run,
)
from phase09_compiler.project26_graph_optimization.heads import fuse_rope, merge_turns, write_in_place
from phase09_compiler.project26_graph_optimization.optimise import GENERAL, PASSES, Optimised, optimise
from phase09_compiler.project26_graph_optimization.plan import plan as planned

SIZE = 16


def lively(**sizes):
    """A model in float64 whose norms have gains, and whose matrices say something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(max_seq_len=SIZE, **sizes)).double().eval()
        for parameter in model.parameters():
            parameter.data = parameter.data * 6 if parameter.dim() > 1 else torch.rand_like(parameter) + 0.5
    return model


def fed(call, caches, ids):
    """Logits (n, V) of ids fed one by one into a step over caches."""
    found = []
    with torch.no_grad():
        for at, token in enumerate(ids):
            logits = call(torch.tensor([[token]]), positions=torch.tensor([[at]]), caches=caches)
            found.append(logits[0, -1].clone())
    return torch.stack(found)


@pytest.fixture(scope="module")
def step():
    """(model, caches, the optimised step, the graph as captured)"""
    model = lively()
    caches = caches_for(model, StaticCache, 1, SIZE)
    captured = capture(model, caches)
    made = Optimised(model, caches)
    return model, caches, made, captured


IDS = [5, 17, 3, 96, 0, 41, 41, 8]


def test_matches_the_model(step):
    """Logits to the last digits of float64, and the caches: those that project 8's step leaves."""
    model, caches, made, _ = step
    other = caches_for(model, StaticCache, 1, SIZE)
    want, got = fed(model, other, IDS), fed(made, caches, IDS)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(got, model(torch.tensor([IDS]))[0], rtol=1e-10, atol=1e-10)
    for mine, theirs in zip(caches, other, strict=True):
        n = len(IDS)
        torch.testing.assert_close(mine.k[:, :, :n], theirs.k[:, :, :n], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(mine.v[:, :, :n], theirs.v[:, :, :n], rtol=1e-10, atol=1e-10)


def test_every_pass_keeps_the_output_and_changes_the_graph(step):
    """One after the other, on the step as `torch.export` gives it: nothing is lost on the way."""
    model, caches, _, captured = step
    gm, want, last = copy.deepcopy(captured), fed(model, caches, IDS), None
    for one in PASSES[:-1]:
        (_, done) = optimise(gm, [one])
        text = str(gm.graph)
        assert done.changed > 0 and text != last, f"{one.__name__} changed nothing"
        last = text
        with torch.no_grad():
            got = torch.stack([gm(torch.tensor([[token]]), torch.tensor([[at]]))[0, -1].clone()
                               for at, token in enumerate(IDS)])  # fmt: skip
        torch.testing.assert_close(
            got, want, rtol=1e-10, atol=1e-10, msg=lambda m, o=one: f"{o.__name__}: {m}"
        )


def test_is_on(step):
    """What is left of two blocks, call by call; no product, norm or mask of the old graph is among it."""
    _, _, made, captured = step
    found = counted(made.gm)
    kinds = {"place": 1, "pick": 1, "row": 2, "norm_product": 3, "turn": 2, "write": 4, "attend_filled": 2,
             "product_add": 4, "norm_gated": 2}  # fmt: skip
    assert {name: n for name, n in found.items() if name in kinds} == kinds
    assert computing(made.gm) == sum(kinds.values()) and computing(captured) > 4 * computing(made.gm)
    assert counted(captured)["linear"] == 15 and counted(captured)["rms_norm"] == 5
    assert made.plan.calls <= computing(made.gm) + 4, "views should have been made before the first step"


def test_logits_are_overwritten(step):
    """As documented: the next step writes where this one's logits lie."""
    _, caches, made, _ = step
    first = made(torch.tensor([[3]]), positions=torch.tensor([[0]]), caches=caches)
    kept = first.clone()
    second = made(torch.tensor([[9]]), positions=torch.tensor([[0]]), caches=caches)
    assert first.data_ptr() == second.data_ptr() and not torch.equal(first, kept)


def test_is_on_in_a_step(step):
    """A kernel that raises makes the step fail: it is really what runs."""
    _, caches, made, _ = step
    with unplugged(kernels.attend_filled):
        fed(made, caches, IDS[:1])


def test_plan_and_interpreter_agree(step):
    """The plan gives what the naive executor gives, node by node, also for a graph without any pass."""
    captured = step[3]
    for passes in ((), GENERAL):
        gm = copy.deepcopy(captured)
        optimise(gm, passes)
        call = planned(gm).call
        for at, token in enumerate(IDS[:3]):
            inputs = torch.tensor([[token]]), torch.tensor([[at]])
            with torch.no_grad():
                torch.testing.assert_close(call(*inputs), run(copy.deepcopy(gm), *inputs))


def test_it_decodes_the_same_text():
    """Behind project 8's prefill, which fills the same caches: token for token what the model writes."""
    model = trained(steps=60)
    caches = caches_for(model, StaticCache, 1, 40)
    prompt = [3, 5, 7, 9]
    got = decode_ragged(model, [prompt], 30, caches, step=Optimised(model, caches))
    assert torch.equal(got, decode(model, torch.tensor([prompt]), 30))


@pytest.mark.parametrize(
    "sizes", [{"n_kv_head": 4}, {"tie_embeddings": True}, {"n_kv_head": 1, "head_dim": 6}]
)
def test_other_sizes(sizes):
    model = lively(n_layer=1, **sizes)
    caches = caches_for(model, StaticCache, 1, SIZE)
    made = Optimised(model, caches)
    with torch.no_grad():
        want = model(torch.tensor([IDS]))[0]
    torch.testing.assert_close(fed(made, caches, IDS), want, rtol=1e-10, atol=1e-10)


def test_what_no_pass_knows_still_runs():
    """GPT-2's dress: LayerNorm, biases, GELU, learned positions. Less is fused, nothing is wrong."""
    model = gpt2(lively(n_kv_head=4)).double().eval()
    caches = caches_for(model, StaticCache, 1, SIZE)
    made = Optimised(model, caches)
    with torch.no_grad():
        want = model(torch.tensor([IDS]))[0]
    torch.testing.assert_close(fed(made, caches, IDS), want, rtol=1e-10, atol=1e-10)
    assert "turn" not in counted(made.gm) and counted(made.gm)["attend_filled"] == 2


def test_passes_of_heads_by_themselves(step):
    """Each finds what it looks for in the captured graph, once for q and once for k, and no more the second
    time."""
    gm = copy.deepcopy(step[3])
    assert fuse_rope(gm) == 4 and fuse_rope(gm) == 0
    assert merge_turns(gm) == 0, "before products are merged, q and k are not neighbours"
    optimise(gm, GENERAL)
    assert write_in_place(gm) == 4 and write_in_place(gm) == 0


def test_refusals(step):
    """Other caches, several tokens, places that are not there, caches that are not static: in one line."""
    model, _, made, _ = step
    one, at = torch.tensor([[1]]), torch.tensor([[0]])
    with pytest.raises(UserError, match="made with"):
        made(one, positions=at, caches=caches_for(model, StaticCache, 1, SIZE))
    with pytest.raises(UserError, match="one token at a time"):
        made(torch.tensor([[1, 2]]), positions=torch.tensor([[0, 1]]))
    for place in (-1, SIZE):
        with pytest.raises(UserError, match=f"position {place} in a cache of {SIZE} slots"):
            made(one, positions=torch.tensor([[place]]))
    for caches in (caches_for(model, KVCache, 1, SIZE), caches_for(model, StaticCache, 2, SIZE)):
        with pytest.raises(UserError, match="static caches of one row"):
            capture(model, caches)


class Asks(nn.Module):
    def forward(self, x):
        if x.sum().item() > 0:
            return x.sin()
        return x.cos()


def test_breaks_are_named():
    """A question to the numbers is a graph break with a reason and a line; capture refuses it in one line."""
    x = torch.ones(3)
    (found,) = breaks(Asks(), x)
    assert "item" in found.why.lower() or "branch" in found.why.lower()
    assert "test_steps.py" in found.where and "sum" in found.where
    assert breaks(lively(n_layer=1), torch.tensor([[1, 2]])) == []
    with pytest.raises(UserError, match="cannot be captured as one graph") as refused:
        graph_of(Asks(), (x,))
    assert "\n" not in str(refused.value)


def test_names(step):
    """Operations are counted under short names, and bookkeeping is not counted."""
    names = counted(step[3])
    assert names["index_put_"] == 4 and "placeholder" not in names and "get_attr" not in names
    assert {name_of(n) for n in step[3].graph.nodes if n.op == "call_function"} == set(names)
    assert plan.PLACED
