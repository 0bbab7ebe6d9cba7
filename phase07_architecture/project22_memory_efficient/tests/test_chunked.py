"""Chunks: the checkpoint against torch's own, the whole against SDPA, what is kept, in the model."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from common.errors import UserError
from common.model import GPT, attend, set_attend
from common.profiling import peak_of
from common.testing import check_attend, close, reference, tiny
from phase03_core_inference.project09_flash_attention.tiled import materialised
from phase07_architecture.project22_memory_efficient import chunked, parts


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def qkv(B, H, K, T, S, D, dtype=torch.float64, gradients=False):
    shapes = (B, H, T, D), (B, K, S, D), (B, K, S, D)
    return [draw(*shape, seed=i, dtype=dtype).requires_grad_(gradients) for i, shape in enumerate(shapes)]


def causal(T):
    return torch.arange(1, T + 1)[None]


def kept(call):
    """(what the call returns, how many numbers autograd keeps for the way back, none counted twice)."""
    storages = {}

    def note(x):
        storages[x.untyped_storage().data_ptr()] = x  # held, so that no address is given out twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        found = call()
    return found, sum(x.untyped_storage().nbytes() // x.element_size() for x in storages.values())


# ---- forget, and compute again ----


def two(q, k, v):
    """A function of three tensors with two results, as `part` is."""
    scores = (q @ k.mT).tanh()
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


@pytest.mark.exercise("gradients")
def test_matches_torchs_checkpoint():
    """The same gradients as torch.utils.checkpoint, of both results at once; what needs none gets None."""
    inputs = [draw(n, 4, seed=n).requires_grad_() for n in (3, 5, 5)]
    grads = [draw(3, 4, seed=8), draw(3, seed=9)]
    want = torch.autograd.grad(checkpoint(two, *inputs, use_reentrant=False), inputs, grads)
    with torch.no_grad():  # as autograd calls it
        found = chunked.gradients(two, inputs, (True, True, True), grads)
        some = chunked.gradients(two, inputs, (False, True, False), grads)
    for mine, true in zip(found, want, strict=True):
        torch.testing.assert_close(mine, true)
    assert some[0] is None and some[2] is None
    torch.testing.assert_close(some[1], want[1])


@pytest.mark.exercise("gradients")
def test_it_stops_at_the_inputs():
    """What made the inputs is not gone through again: nothing flows further back than to them."""
    leaf = draw(3, 4).requires_grad_()
    inputs = [leaf * 2, draw(5, 4, seed=1), draw(5, 4, seed=2)]
    grads = [draw(3, 4, seed=8), draw(3, seed=9)]
    with torch.no_grad():
        found = chunked.gradients(two, inputs, (True, False, False), grads)
    want = torch.autograd.grad(two(*inputs), inputs[0], grads)[0]
    torch.testing.assert_close(found[0], want)
    assert leaf.grad is None and not found[0].requires_grad


def test_forget_matches_and_keeps_the_inputs_alone():
    """Inside a longer computation: right gradients, and of what lies between nothing is kept."""
    inputs = [draw(n, 4, seed=n).requires_grad_() for n in (30, 50, 50)]

    def loss(run):
        y, lse = run(two, *inputs)
        return (y.square().sum() + lse.sin().sum()).sum()

    plain, much = kept(lambda: loss(lambda fn, *x: fn(*x)))
    ours, little = kept(lambda: loss(chunked.forget))
    for mine, true in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(mine, true)
    assert much > 30 * 50 and little < 30 * 50  # the scores


# ---- all chunks ----


@pytest.mark.exercise("attend_rows")
@pytest.mark.parametrize("keys", [1, 3, 16])
def test_one_chunk_of_queries(keys):
    """Queries 6 to 8 of twelve, two heads a group, keys in chunks: the rows that attention has for them."""
    q, k, v = qkv(2, 4, 2, 3, 12, 4)
    reach = torch.tensor([[7, 8, 9]])
    y = chunked.attend_rows(parts.group(q, k), k.split(keys, 2), v.split(keys, 2), reach, None, keys)
    want = reference(q, k, v, torch.arange(12) < reach[:, None, :, None])
    assert y.shape == (2, 2, 2, 3, 4)
    close(y.flatten(1, 2), want, f"chunks of {keys}")


@pytest.mark.exercise("attend_rows")
def test_one_chunk_of_queries_under_a_mask():
    """A mask of its own for every head, and a query that sees nothing."""
    q, k, v = qkv(1, 4, 2, 3, 10, 4)
    mask = draw(1, 4, 3, 10, seed=9) > 0
    mask[0, 1, 2] = False
    grouped = mask.unflatten(1, (2, 2))
    y = chunked.attend_rows(parts.group(q, k), k.split(4, 2), v.split(4, 2), None, grouped, 4).flatten(1, 2)
    close(y, reference(q, k, v, mask).nan_to_num(), "mask")
    assert y[0, 1, 2].eq(0).all()


@pytest.mark.exercise("attend_rows")
def test_the_future_is_not_computed(monkeypatch):
    """Chunks of keys that none of the queries sees are left out, and of the last one what is not seen."""
    sizes, part = [], parts.part
    monkeypatch.setattr(chunked, "part", lambda q, k, *rest: sizes.append(k.size(-2)) or part(q, k, *rest))
    q, k, v = qkv(1, 2, 1, 3, 12, 4)
    chunked.attend_rows(parts.group(q, k), k.split(4, 2), v.split(4, 2), torch.tensor([[4, 5, 6]]), None, 4)
    assert sizes == [4, 2]


@pytest.mark.exercise("attend_rows")
def test_what_is_kept_does_not_grow_with_the_scores():
    """For gradients: inputs, and an answer for each chunk of keys; no matrix, and no mask."""
    q, k, v = qkv(1, 2, 1, 64, 64, 4, gradients=True)
    call = functools.partial(chunked.chunked, q, k, v, causal(64), queries=16, keys=16)
    _, numbers = kept(call)
    answers = 2 * 64 * (64 // 16) * (4 + 4)  # heads, queries, chunks; y, lse and what merge makes of it
    assert 2 * 64 * 4 < numbers < 4 * 2 * 64 * 4 + answers < 2 * 64 * 64


@pytest.mark.parametrize("queries, keys", [(1, 1), (5, 3), (64, 64), (3, 64)])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)], ids=str)
def test_matches_sdpa_with_gradients(heads, queries, keys):
    """Causal attention and all three gradients, in float64, in chunks that divide nothing, one by one too."""
    inputs = qkv(2, *heads, 13, 13, 6, gradients=True)
    y = chunked.chunked(*inputs, causal(13), queries=queries, keys=keys)
    want = F.scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)
    dy = draw(*y.shape, seed=9)
    close(y, want, "y")
    for name, mine, true in zip("qkv", torch.autograd.grad(y, inputs, dy),
                                torch.autograd.grad(want, inputs, dy), strict=True):  # fmt: skip
        close(mine, true, f"gradient of {name}")


def test_attend_keeps_its_contract():
    """All that is asked of an attend, in one chunk and in many."""
    check_attend(chunked.attend)
    check_attend(functools.partial(chunked.attend, queries=3, keys=2))


def test_autocast_and_16_bits():
    """Under autocast the parts stay float32: two routes to one rounding."""
    q, k, v = qkv(1, 2, 1, 20, 20, 8, torch.bfloat16)
    want = reference(q, k, v, torch.ones(20, 20).tril().bool())
    with torch.autocast("cpu", torch.bfloat16):
        y = chunked.chunked(q, k, v, causal(20), queries=8, keys=8)
    assert y.dtype == torch.bfloat16
    close(y, want, "bfloat16", rtol=2**-8, atol=1e-4)


def test_peak_memory_is_that_of_a_chunk():
    """1,024 tokens, there and back: an eighth of the matrix's memory, or less."""
    q, k, v = qkv(1, 2, 1, 1024, 1024, 16, torch.float32, gradients=True)
    look = torch.ones(1024, 1024, dtype=torch.bool).tril()

    def peak(fn):
        return peak_of(lambda: torch.autograd.grad(fn().sum(), (q, k, v)), torch.device("cpu"))

    matrix = peak(lambda: materialised(q, k, v, look))
    ours = peak(lambda: chunked.chunked(q, k, v, causal(1024), queries=64, keys=128))
    assert matrix > 3 * 2 * 1024 * 1024 * 4 and ours < matrix / 8


def test_empty_and_impossible():
    """No query: nothing. No key that is seen: 0. No chunk, heads that do not divide: a line that says so."""
    q, k, v = qkv(1, 2, 1, 3, 5, 4)
    assert chunked.chunked(q[:, :, :0], k, v, causal(0)).shape == (1, 2, 0, 4)
    none = torch.zeros(1, 1, 3, 0, dtype=torch.bool)
    assert chunked.chunked(q, k[:, :, :0], v[:, :, :0], None, none).eq(0).all()
    for sizes in ({"queries": 0}, {"keys": 0}):
        with pytest.raises(UserError, match="take at least 1"):
            chunked.chunked(q, k, v, causal(3), **sizes)
    with pytest.raises(UserError, match="must be a multiple of K"):
        chunked.chunked(q[:, [0, 0, 1]], k[:, [0, 0]], v[:, [0, 0]], causal(3))


def test_is_on(monkeypatch):
    """The model goes through chunks: where `summarise` raises, so does it; and a loss and gradients agree."""
    torch.manual_seed(0)
    model, tokens, found = GPT(tiny()), torch.randint(97, (2, 19)), []
    for fn in (attend, chunked.attend):
        loss = F.cross_entropy(set_attend(model, fn)(tokens)[0, :-1], tokens[0, 1:])
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for mine, true in zip(*found, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-6)

    def unplugged(*args, **kwargs):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(chunked, "summarise", unplugged)
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        model(tokens)
