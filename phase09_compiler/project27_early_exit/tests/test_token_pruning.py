"""Pruned prompts: whom the last token looks at, beside `transformers`; what is left, beside a mask."""

import pytest
import torch

from common import hub
from common.errors import UserError
from common.model import GPT, Cache
from common.testing import reference, tiny, trained
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode
from phase09_compiler.project27_early_exit.token_pruning import importance, most_important, prefill

MODEL = trained(n_layer=3, steps=60)
TOKENS = torch.tensor([[3, 5, 7, 9, 11, 13, 4, 8, 12, 16, 20, 1, 2]])


def test_importance_is_the_attention_of_transformers(tmp_path):
    """The last row of its attention weights, the mean over heads, in each layer."""
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny())
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.dim() > 1 else 1)
    hub.save(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    tokens, positions, caches = TOKENS + 40, torch.arange(13), [Cache(), Cache()]
    with torch.no_grad():
        weights = theirs(tokens, output_attentions=True).attentions
        x, rope = model.embed(tokens, None), model.rope(positions)
        for block, cache, want in zip(model.blocks, caches, weights, strict=True):
            before = x
            x = block(x, rope=rope, positions=positions, cache=cache)
            got = importance(block, before[:, -1], cache, model.rope(positions[-1:]))
            assert torch.allclose(got, want[0, :, -1].mean(0), atol=1e-5)


@pytest.mark.exercise("importance")
def test_importance_is_attention_written_out():
    """The last row of attention in float64, with an identity for values: its weights, the mean over heads."""
    positions, caches = torch.arange(13), [Cache() for _ in MODEL.blocks]
    x, rope = MODEL.embed(TOKENS, None), MODEL.rope(positions)
    with torch.no_grad():
        for block, cache in zip(MODEL.blocks, caches, strict=True):
            q, k, _ = block.attn.project(block.norm_attn(x), rope)
            look = torch.ones(13, 13, dtype=torch.bool).tril()
            eye = torch.eye(13, dtype=torch.float64).expand(1, k.size(1), 13, 13)
            want = reference(q, k, eye, look)[0, :, -1].mean(0)
            before, x = x, block(x, rope=rope, positions=positions, cache=cache)
            got = importance(block, before[:, -1], cache, MODEL.rope(positions[-1:]))
            assert torch.allclose(got, want, atol=1e-9)


@pytest.mark.exercise("most_important")
def test_most_important_by_hand():
    """The largest, in the order of the text; the last stays though nobody looks at it."""
    weights = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15, 0.0])
    assert most_important(weights, 3).tolist() == [1, 3, 5]
    assert most_important(weights, 1).tolist() == [5] and most_important(weights, 6).tolist() == [*range(6)]
    assert weights[-1] == 0  # what was given is not changed


@pytest.mark.exercise("prefill")
def test_matches_the_plain_model_where_nobody_is_left_out():
    hidden, caches, kept = prefill(MODEL, TOKENS, {1: 1.0})
    assert torch.allclose(hidden, MODEL.hidden(TOKENS)[:, -1], atol=1e-10)
    assert [len(places) for places in kept] == [13, 13]
    plain = decode(MODEL, TOKENS, 8, caches_for(MODEL, KVCache, 1, 24))
    first = MODEL.head(hidden).argmax(-1)
    rest = decode(MODEL, first[None], 7, caches)
    assert torch.equal(torch.cat((first[None], rest), 1), plain)


@pytest.mark.exercise("prefill")
def test_pruning_is_a_mask_above():
    """The plain model with a mask in each block that hides who was left out, for the prompt and for what
    follows, token by token."""
    hidden, caches, kept = prefill(MODEL, TOKENS, {1: 0.5, 2: 0.4})
    assert [len(places) for places in kept] == [13, 7, 3]
    assert all(places[-1] == 12 and (places.diff() > 0).all() for places in kept)
    ids = [int(MODEL.head(hidden).argmax())]
    with torch.no_grad():
        for _ in range(4):
            logits = MODEL(torch.tensor([ids[-1:]]), caches=caches)[0, -1]
            row = torch.cat((TOKENS, torch.tensor([ids])), 1)
            x, positions = MODEL.embed(row, None), torch.arange(row.size(1))
            for block, places in zip(MODEL.blocks, kept, strict=True):
                seen = torch.ones(row.size(1), dtype=torch.bool)
                seen[:13] = torch.isin(torch.arange(13), places)
                mask = seen & (positions[:, None] >= positions)
                mask = mask | torch.eye(row.size(1), dtype=torch.bool)  # a row that nobody reads sees itself
                x = block(x, rope=MODEL.rope(positions), positions=positions, mask=mask)
            assert torch.allclose(logits, MODEL.head(MODEL.norm(x))[0, -1], atol=1e-9)
            ids.append(int(logits.argmax()))


@pytest.mark.exercise("prefill")
def test_those_stay_whom_the_last_token_looks_at():
    """Attention written out, in the very block after which tokens stop: its last row decides."""
    _, _, kept = prefill(MODEL, TOKENS, {1: 0.5})
    positions, block = torch.arange(13), MODEL.blocks[0]
    with torch.no_grad():
        q, k, _ = block.attn.project(block.norm_attn(MODEL.embed(TOKENS, None)), MODEL.rope(positions))
    eye = torch.eye(13, dtype=torch.float64).expand(1, k.size(1), 13, 13)
    weights = reference(q, k, eye, torch.ones(13, 13, dtype=torch.bool).tril())[0, :, -1].mean(0)
    assert kept[1].tolist() == [*weights[:-1].topk(6).indices.sort().values.tolist(), 12]


@pytest.mark.exercise("prefill")
def test_pruned_tokens_cost_nothing_above():
    """How many states each block computes, and how many keys each cache holds."""
    seen = []
    hooks = [
        block.ffn.register_forward_hook(lambda m, x, y: seen.append(y.size(1))) for block in MODEL.blocks
    ]
    _, caches, _ = prefill(MODEL, TOKENS, {1: 0.25})
    for hook in hooks:
        hook.remove()
    assert seen == [13, 4, 4] and [cache.length for cache in caches] == [13, 4, 4]


def test_bad_prompts_are_refused():
    with pytest.raises(UserError, match="one at a time"):
        prefill(MODEL, TOKENS.expand(2, -1), {1: 0.5})
    for shares in ({0: 0.5}, {1: 0.0}, {1: 1.5}):
        with pytest.raises(UserError, match="above 0 and at most 1"):
            prefill(MODEL, TOKENS, shares)
