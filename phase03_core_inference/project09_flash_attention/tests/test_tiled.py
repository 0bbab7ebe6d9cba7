"""The tiles in PyTorch: each step by itself, the whole against torch, in float64, and in the model."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.generate import Sampling, generate
from common.model import GPT, Cache, set_attend
from common.profiling import peak_of
from common.testing import check_attend, tiny, trained
from phase03_core_inference.project09_flash_attention import tiled


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def qkv(B, H, K, T, S, D, dtype=torch.float64):
    return draw(B, H, T, D, seed=1, dtype=dtype), *(draw(B, K, S, D, seed=i, dtype=dtype) for i in (2, 3))


def causal(T):
    return torch.arange(1, T + 1)[None]


def empty(*shape):
    """The state of a softmax that has seen nothing, of rows (..., R, D)."""
    none = torch.zeros(*shape[:-1], 1, dtype=torch.float64)
    return none + tiled.LOW, none, torch.zeros(shape, dtype=torch.float64)


def folded(scores, v, sizes):
    state = empty(*scores.shape[:-1], v.size(-1))
    for part, values in zip(scores.split(sizes, -1), v.split(sizes, -2), strict=True):
        state = tiled.fold(state, part.clone(), values)
    return state


# ---- one tile ----

@pytest.mark.exercise("key_tiles")
def test_tiles_stop_at_the_furthest_reach():
    """Causal queries 4..7 in tiles of 4: the first four keys whole, the next four not, none after that."""
    assert tiled.key_tiles(torch.arange(5, 9)[None], 4) == [(0, 4, True), (4, 8, False)]
    assert tiled.key_tiles(torch.tensor([[1, 2]]), 4) == [(0, 2, False)]
    assert tiled.key_tiles(torch.tensor([[8]]), 4) == [(0, 4, True), (4, 8, True)]
    assert tiled.key_tiles(torch.tensor([[9]]), 4) == [(0, 4, True), (4, 8, True), (8, 9, True)]


@pytest.mark.exercise("key_tiles")
def test_tiles_of_rows_at_different_places():
    """What one row does not see, another may: nothing is skipped that somebody needs, nor left unhidden."""
    reach = torch.tensor([[3, 4], [7, 8]])
    assert tiled.key_tiles(reach, 4) == [(0, 4, False), (4, 8, False)]
    assert tiled.key_tiles(reach + 1, 4) == [(0, 4, True), (4, 8, False), (8, 9, False)]


@pytest.mark.exercise("in_reach")
def test_who_sees_whom_in_a_tile():
    """The edge: query t sees key t itself, and not the next one; keys are counted from the tile's start."""
    look = tiled.in_reach(torch.tensor([[5, 6, 7]]), 4, 8)
    assert look.int().tolist() == [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]]
    rows = tiled.in_reach(torch.tensor([[1], [2]]), 0, 2)
    assert rows.tolist() == [[[True, False]], [[True, True]]]


@pytest.mark.exercise("fold")
@pytest.mark.parametrize("sizes", [[7], [3, 4], [1] * 7, [5, 1, 1]], ids=str)
def test_matches_softmax_however_it_is_cut(sizes):
    """A softmax of seven keys, in one part or many, is torch's; and so is its log-sum-exp."""
    scores, v = 5 * draw(2, 3, 7), draw(2, 7, 4, seed=1)
    m, l, y = folded(scores, v, sizes)
    torch.testing.assert_close(y / l, scores.softmax(-1) @ v)
    torch.testing.assert_close((m + l.log()).squeeze(-1), scores.logsumexp(-1))


@pytest.mark.exercise("fold")
@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_scores_that_overflow_without_the_maximum(shift):
    """exp(10,000) is no number, and exp(-10,000) is nothing: only what lies between the scores may count."""
    scores, v = draw(2, 3, 6), draw(2, 6, 4, seed=1)
    _, l, y = folded(scores + shift, v, [2, 4])
    torch.testing.assert_close(y / l, scores.softmax(-1) @ v)


@pytest.mark.exercise("fold")
def test_hidden_keys_count_for_nothing():
    """Also where a whole tile is hidden from a row, before it has seen anything."""
    scores, v = draw(1, 2, 6), draw(1, 6, 4, seed=1)
    scores[0, 0, :3], scores[0, 1, 3:] = -math.inf, -math.inf
    _, l, y = folded(scores, v, [3, 3])
    torch.testing.assert_close(y / l, scores.softmax(-1) @ v)


@pytest.mark.exercise("finish")
def test_finish_gives_the_mean_and_the_logsumexp():
    """One division at the end; and one number a row, with which the probabilities can be had again."""
    scores, v = 3 * draw(2, 3, 5), draw(2, 5, 4, seed=1)
    m = scores.amax(-1, keepdim=True)
    p = (scores - m).exp()
    y, lse = tiled.finish((m, p.sum(-1, keepdim=True), p @ v))
    torch.testing.assert_close(y, scores.softmax(-1) @ v)
    torch.testing.assert_close(lse, scores.logsumexp(-1, keepdim=True))
    torch.testing.assert_close((scores - lse).exp(), scores.softmax(-1))


@pytest.mark.exercise("finish")
def test_a_row_that_saw_nothing_is_zero():
    """Not NaN, and nothing flows back through it."""
    y, lse = tiled.finish(empty(1, 2, 4))
    assert y.eq(0).all() and lse.eq(tiled.LOW).all()


@pytest.mark.exercise("tile_gradients")
@pytest.mark.parametrize("cut", [0, 2])
def test_gradients_of_tiles_add_up(cut):
    """What two tiles of keys (or one) send back is together what autograd finds for the whole softmax."""
    q, k, v = (draw(2, n, 4, seed=n).requires_grad_() for n in (3, 5, 6))
    v = v[:, :5].detach().requires_grad_()
    dy, scores = draw(2, 3, 4, seed=9), q @ k.mT
    y = scores.softmax(-1) @ v
    want = torch.autograd.grad(y, (q, k, v), dy)
    lse, delta = scores.logsumexp(-1, keepdim=True).detach(), (dy * y).sum(-1, keepdim=True).detach()
    dq, parts = 0, []
    with torch.no_grad():
        for start, stop in ((0, cut), (cut, 5)):
            tile = k[:, start:stop], v[:, start:stop], scores[..., start:stop].clone()
            new, *part = tiled.tile_gradients(q, *tile, lse, dy, delta)
            dq = dq + new
            parts.append(part)
    got = dq, *(torch.cat(part, 1) for part in zip(*parts, strict=True))
    for name, mine, true in zip("qkv", got, want, strict=True):
        torch.testing.assert_close(mine, true, msg=lambda text, name=name: f"gradient of {name}: {text}")


# ---- all tiles ----

SHAPES = [(2, 4, 2, 37, 37, 16), (1, 3, 1, 8, 8, 6), (1, 2, 2, 1, 20, 8), (2, 4, 4, 9, 26, 8),
          (1, 6, 2, 64, 64, 8)]  # fmt: skip


@pytest.mark.exercise("key_tiles", "in_reach", "fold", "finish")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_sdpa(shape):
    """Every length, tile size and number of heads: what torch's attention gives, in float64."""
    q, k, v = qkv(*shape)
    (_, H, K, T, S, _) = shape
    reach = torch.arange(S - T + 1, S + 1)[None]
    look = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=look, enable_gqa=H != K)
    torch.testing.assert_close(tiled.materialised(q, k, v, look), want)
    for size in (1, 4, 7, 256):
        torch.testing.assert_close(tiled.flash(q, k, v, reach, size=size), want, msg=f"tiles of {size}")


@pytest.mark.exercise("key_tiles", "in_reach", "fold", "finish", "tile_gradients")
def test_gradcheck():
    """The gradients, against differences in float64: heads in groups, ragged rows, and a mask."""
    q, k, v = (x.requires_grad_() for x in qkv(2, 2, 1, 4, 5, 2))
    reach = torch.tensor([[1, 2, 3, 4], [2, 3, 4, 5]])
    assert torch.autograd.gradcheck(lambda *x: tiled.flash(*x, reach, size=2), (q, k, v))
    mask = torch.rand(1, 2, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    assert torch.autograd.gradcheck(lambda *x: tiled.flash(*x, None, mask, size=2), (q, k, v))


@pytest.mark.exercise("key_tiles", "in_reach", "fold", "finish", "tile_gradients")
@pytest.mark.parametrize("size", [4, 256])
def test_attend_keeps_its_contract(size, monkeypatch):
    """GQA, masks, caches of both families, ragged rows, gradients: what every attend is asked."""
    monkeypatch.setattr(tiled, "flash", functools.partial(tiled.flash, size=size))
    check_attend(tiled.attend)
    check_attend(tiled.attend, dtype=torch.float64)


def test_a_row_that_may_look_at_nothing():
    """A mask without a single True in a row: zeros, and gradients that are numbers."""
    q, k, v = (x.requires_grad_() for x in qkv(1, 2, 1, 4, 4, 8))
    mask = torch.ones(4, 4, dtype=torch.bool).tril(-1)
    y = tiled.flash(q, k, v, None, mask, size=2)
    assert y[:, :, 0].eq(0).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (q, k, v)))
    torch.testing.assert_close(y, F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True))


def test_junk_beyond_the_reach_is_never_touched():
    """Slots that nobody filled may hold anything, even what is no number."""
    q, k, v = qkv(1, 2, 2, 3, 10, 8)
    reach = torch.tensor([[5, 6, 7]])
    want = tiled.flash(q, k[:, :, :7], v[:, :, :7], reach, size=4)
    k[:, :, 7:], v[:, :, 7:] = math.nan, math.inf
    torch.testing.assert_close(tiled.flash(q, k, v, reach, size=4), want)


def test_causal_tiles_are_skipped(monkeypatch):
    """Of 8 x 8 tiles the causal rule needs 36: the others are not computed and hidden, but left out."""
    calls, fold = [], tiled.fold
    monkeypatch.setattr(tiled, "fold", lambda *args: (calls.append(args[1].shape), fold(*args))[1])
    tiled.flash(*qkv(1, 1, 1, 64, 64, 8), causal(64), size=8)
    assert len(calls) == 36
    assert {shape[-2:] for shape in calls} == {(8, 8)}


def test_the_matrix_never_exists():
    """Forward and backward at 512 tokens: at most an eighth of the peak of the materialised form."""
    inputs = [x.float().requires_grad_() for x in qkv(1, 4, 4, 512, 512, 16)]
    look = torch.ones(512, 512, dtype=torch.bool).tril()

    def peak(y):
        return peak_of(lambda: torch.autograd.grad(y().sum(), inputs), torch.device("cpu"))

    ours = peak(lambda: tiled.flash(*inputs, causal(512), size=64))
    theirs = peak(lambda: tiled.materialised(*inputs, look))
    assert 8 * ours <= theirs, f"{ours:,} bytes against {theirs:,}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    """16-bit in and out, the sums in float32: no further from float64 than rounding the result costs."""
    q, k, v = qkv(1, 2, 1, 40, 40, 16, dtype)
    got = tiled.flash(q, k, v, causal(40), size=16)
    want = tiled.flash(q.double(), k.double(), v.double(), causal(40))
    assert got.dtype == dtype
    torch.testing.assert_close(got, want.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_autocast_does_not_reach_the_tiles():
    """Training under bf16 autocast: the tiles stay float32, whatever autocast makes of matrix products."""
    q, k, v = (x.bfloat16() for x in qkv(1, 2, 1, 40, 40, 16))
    want = tiled.flash(q, k, v, causal(40), size=16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tiled.flash(q, k, v, causal(40), size=16), want)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="4 query heads do not divide among 3"):
        tiled.flash(*qkv(1, 4, 3, 5, 5, 8), causal(5))


# ---- in the model ----

def test_matches_the_model_it_is_plugged_into():
    """Logits and every gradient of a model, with its own attention and with the tiles."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny()).double(), torch.randint(97, (2, 21))
    found = []
    for fn in (None, functools.partial(tiled.attend)):
        set_attend(model, fn) if fn else None
        logits = model(tokens)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        found.append([logits, *torch.autograd.grad(loss, list(model.parameters()))])
    for mine, true in zip(*found, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-10)


def test_generates_the_same_tokens():
    """A cache, one token at a time: token for token what the core's attention draws."""
    model, prompt = trained(steps=30), [[3, 5, 7], [20, 19, 18]]
    sampling = Sampling(max_tokens=20, temperature=0.0)
    want = [answer.ids for answer in generate(model, prompt, sampling)]
    set_attend(model, tiled.attend)
    caches = [Cache() for _ in model.blocks]
    assert [answer.ids for answer in generate(model, prompt, sampling, caches=caches)] == want
    assert caches[0].length == 22


@pytest.mark.parametrize("part", ["fold", "finish", "in_reach", "key_tiles"])
def test_is_on(part, monkeypatch):
    """Each part of the technique raises: then so does the model that it was plugged into."""
    def broken(*args):
        raise ZeroDivisionError(part)

    monkeypatch.setattr(tiled, part, broken)
    model = set_attend(GPT(tiny()), tiled.attend)
    with pytest.raises(ZeroDivisionError, match=part):
        model(torch.randint(97, (1, 9)))


def test_is_on_in_training(monkeypatch):
    """The way back is our own as well, not autograd's through the forward."""
    def broken(*args):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr(tiled, "tile_gradients", broken)
    loss = set_attend(GPT(tiny()), tiled.attend)(torch.randint(97, (1, 9))).sum()
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        loss.backward()
