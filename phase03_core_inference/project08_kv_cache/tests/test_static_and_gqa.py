"""One graph for all steps, and fewer keys and values; both beside something nobody here wrote."""

import pytest
import torch
import torch._dynamo.testing
from torch.utils.flop_counter import FlopCounterMode

from common import hub
from common.errors import UserError
from common.model import GPT, set_attend
from common.testing import check_attend, close, tiny
from phase03_core_inference.project08_kv_cache._theory import cost_of, published
from phase03_core_inference.project08_kv_cache.gqa import cache_bytes, first_of, folded, pool_heads, regroup
from phase03_core_inference.project08_kv_cache.kv_cache import (
    KVCache,
    StaticCache,
    caches_for,
    decode,
    decode_ragged,
    recompute,
)
from phase03_core_inference.project08_kv_cache.static import OneRow, compiled, one_row


def model(**sizes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = GPT(tiny(**sizes)).double().eval()
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(8 if p.dim() > 1 else 1)
    return made


PROMPTS = [[3, 1, 4, 1, 5], [9, 2]]


# ---- one graph ----


@pytest.mark.exercise("StaticCache.update")
def test_one_graph_serves_all_steps():
    """Compiled once: for every step, every answer, and caches made anew; and the tokens are the same."""
    torch._dynamo.reset()
    counter, plain = torch._dynamo.testing.CompileCounter(), model()
    step = compiled(plain, counter)
    for start in (0, 1, 2):
        prompts = [[i + start for i in row] for row in PROMPTS]
        got = decode_ragged(plain, prompts, 9, caches_for(plain, StaticCache, 2, 20), step=step)
        for row, prompt in enumerate(prompts):
            assert torch.equal(got[row : row + 1], recompute(plain, torch.tensor([prompt]), 9))
    assert counter.frame_count == 1, f"{counter.frame_count} graphs were compiled"


def test_a_counting_cache_is_compiled_again_and_again():
    """The reason for the other family: an int that changes every step is a new graph, or two."""
    torch._dynamo.reset()
    counter, plain = torch._dynamo.testing.CompileCounter(), model(n_layer=1)
    caches, step = caches_for(plain, KVCache, 1, 20), torch.compile(plain, backend=counter, dynamic=False)
    with torch.no_grad():
        plain(torch.tensor([[1, 2, 3]]), caches=caches)
        for _ in range(2):
            step(torch.tensor([[4]]), caches=caches)
    assert counter.frame_count > 1


def graph_of(layer, x):
    """(what the layer gives when compiled, the names of the operations in its graph)"""
    names = []

    def backend(module, inputs):
        names.extend(str(node.target) for node in module.graph.nodes if node.op.startswith("call"))
        return module.forward

    torch._dynamo.reset()
    return torch.compile(layer, backend=backend, fullgraph=True)(x), names


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.exercise("OneRow.forward")
def test_a_compiled_row_is_a_sum_of_products(bias):
    """Compiled with one row: no library product in the graph, and torch's answer; else the library's."""
    layer = torch.nn.Linear(12, 7, bias=bias).double()
    other = one_row(torch.nn.Sequential(layer))[0]
    assert type(other) is OneRow and other.weight is layer.weight
    for shape in ((1, 1, 12), (12,), (3, 12), (1, 2, 12)):
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        want = torch.nn.functional.linear(x, layer.weight, layer.bias)
        got, names = graph_of(other, x)
        close(got, want, f"compiled, {shape}")
        single = x.numel() == 12
        assert any("linear" in name for name in names) != single, names
        with FlopCounterMode(display=False) as counter:
            close(other(x), want, f"not compiled, {shape}")
        assert counter.get_total_flops() == 2 * x.numel() * 7, "not compiled, the library multiplies"


@pytest.mark.slow
def test_the_compiler_gives_the_same_tokens():
    """The real compiler, on a model with rows read in order; about ten seconds."""
    torch._dynamo.reset()
    plain, prompt = model(), [PROMPTS[0]]
    want = recompute(plain, torch.tensor(prompt), 9)
    caches, step = caches_for(plain, StaticCache, 1, 20), compiled(one_row(plain))
    assert torch.equal(decode_ragged(plain, prompt, 9, caches, step=step), want)


@pytest.mark.gpu
def test_a_recorded_step_gives_the_same_tokens():  # pragma: no cover - gpu
    """Two answers from one CUDA graph; its twin on a CPU is `test_one_graph_serves_all_steps`."""
    from phase03_core_inference.project08_kv_cache.static import Replayed

    plain = model().cuda()
    caches = caches_for(plain, StaticCache, 2, 20)
    step = Replayed(plain, caches, 2)
    for _ in range(2):
        got = decode_ragged(plain, PROMPTS, 9, caches, step=step)
        for row, prompt in enumerate(PROMPTS):
            assert torch.equal(got[row : row + 1], recompute(plain, torch.tensor([prompt]).cuda(), 9))
    with pytest.raises(UserError, match="recorded with"):
        step(torch.zeros(2, 1).long().cuda(), positions=torch.zeros(2, 1).long().cuda(), caches=caches[:])


# ---- fewer heads ----


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.exercise("pool_heads")
def test_pooled_heads_are_means(groups):
    """Row by row, the mean over the heads that shared neighbouring queries."""
    weight = torch.randn(4 * 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got, share = pool_heads(weight, 6, groups), 4 // groups
    assert got.shape == (groups * 6, 5)
    for g in range(groups):
        for d in range(6):
            want = sum(weight[(g * share + i) * 6 + d] for i in range(share)) / share
            close(got[g * 6 + d], want, f"head {g}, dimension {d}")


@pytest.mark.exercise("pool_heads", "regroup")
def test_matches_where_the_heads_agree():
    """If the heads of a group are alike already, the conversion changes nothing but the cache."""
    many, D = model(n_kv_head=4), 8
    with torch.no_grad():
        for block in many.blocks:
            for w in (block.attn.wk.weight, block.attn.wv.weight):
                heads = w.unflatten(0, (2, 2, D))
                heads[:, 1] = heads[:, 0]
    tokens = torch.tensor(PROMPTS[:1])
    with torch.no_grad():
        before = many(tokens)
        after = regroup(many, 2)(tokens)
    close(after, before, "logits")
    caches = caches_for(many, KVCache, 1, 16)
    assert torch.equal(decode(many, tokens, 9, caches), recompute(many, tokens, 9))
    held = sum(x.nbytes for cache in caches for x in (cache.k, cache.v))
    assert held == cache_bytes(many.config, 16, 8) == cache_bytes(model(n_kv_head=4).config, 16, 8) / 2


@pytest.mark.exercise("regroup")
def test_is_on_after_regrouping():
    """Other logits, fewer weights, the config says so, all attentions are changed, and the flag stays."""
    many = model(n_kv_head=4)
    tokens, weights = torch.tensor(PROMPTS[:1]), sum(p.numel() for p in many.parameters())
    with torch.no_grad():
        before = many(tokens)
        assert regroup(many, 1) is many and many.config.n_kv_head == 1
        assert (many(tokens) - before).abs().max() > 1e-3
    size = many.config
    assert weights - sum(p.numel() for p in many.parameters()) == 2 * size.n_layer * 3 * 8 * size.d_model
    assert all(b.attn.wk.out_features == b.attn.wv.out_features == 8 for b in many.blocks)
    assert not any(module.training for module in many.modules())
    for groups in (0, 2):
        with pytest.raises(UserError, match="divisor of 1"):
            regroup(many, groups)


@pytest.mark.exercise("regroup")
def test_another_way_to_pool():
    many = model(n_kv_head=4)
    want = many.blocks[0].attn.wk.weight.detach().unflatten(0, (2, 2, 8))[:, 0].flatten(0, 1).clone()
    assert torch.equal(regroup(many, 2, first_of).blocks[0].attn.wk.weight, want)


def test_folded_heads_keep_the_contract(monkeypatch):
    """The core's attend to the last digits; and a single token's heads really are rows of one product."""
    check_attend(folded)
    shapes, product = [], torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, **options):
        shapes.append(tuple(q.shape))
        return product(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    few = set_attend(model(n_kv_head=2), folded)
    tokens = torch.tensor(PROMPTS[:1])
    got = decode(few, tokens, 2, caches_for(few, KVCache, 1, 16))
    assert shapes == [(1, 4, 5, 8)] * 2 + [(1, 2, 2, 8)] * 2
    assert torch.equal(got, recompute(few, tokens, 2))


def test_matches_transformers(tmp_path):
    """A converted model, saved and read by transformers: its generate with a cache draws our tokens."""
    transformers = pytest.importorskip("transformers")
    few = regroup(model(n_kv_head=4).float(), 2)
    hub.save(few, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    few, tokens = few.double(), torch.tensor([PROMPTS[0], PROMPTS[0][::-1]])
    for kind in (None, "static"):
        want = theirs.generate(tokens, max_new_tokens=20, min_new_tokens=20, do_sample=False, pad_token_id=0,
                               use_cache=True, cache_implementation=kind)[:, 5:]  # fmt: skip
        assert torch.equal(decode(few, tokens, 20, caches_for(few, KVCache, 2, 25)), want)
        static = caches_for(few, StaticCache, 2, 25)
        assert torch.equal(decode_ragged(few, tokens.tolist(), 20, static), want)


# ---- the arithmetic ----


def test_predicted_operations_are_those_that_run():
    """Products of matrices, counted by torch while the model runs."""
    plain = model(tie_embeddings=True)
    cost, tokens = cost_of(plain), torch.zeros(1, 12, dtype=torch.long)
    caches = caches_for(plain, KVCache, 1, 12)
    products = (torch.ops.aten.mm, torch.ops.aten.addmm)
    for fed, length, given in ((12, 12, None), (11, 11, caches), (1, 12, caches)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            plain.head(plain.hidden(tokens[:, :fed], caches=given)[:, -1])
        counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if op in products)
        assert counted == cost.flops(fed, length) - cost.attention(fed, length)
    assert cost.attention(3, 3) == 4 * cost.layers * cost.d_attn * (1 + 2 + 3)
    without, with_cache = cost.totals(4, 3)
    assert without == sum(cost.flops(n, n) for n in (4, 5, 6))
    assert with_cache == cost.flops(4, 4) + cost.flops(1, 5) + cost.flops(1, 6)


def test_the_published_formula_is_the_published_one():
    assert published(100, 50) == pytest.approx(33.56, abs=0.01)
