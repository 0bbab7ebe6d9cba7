"""Kernels in the model, the loss in chunks, and the counting of bytes."""

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch.utils import cpp_extension

from common import hub
from common.errors import UserError
from common.model import GPT, Attention, Block, Cache, swap
from common.profiling import peak_of
from common.testing import check_attend, close, tiny, trained
from common.trial import model_folder, unplugged
from phase03_core_inference.project08_kv_cache.kv_cache import (
    KVCache,
    StaticCache,
    caches_for,
    decode,
    decode_ragged,
)
from phase03_core_inference.project09_flash_attention import tiled
from phase09_compiler.project25_operator_fusion import chains, cpp_ops, fused, traffic
from phase09_compiler.project25_operator_fusion.linear_cross_entropy import chunks, linear_cross_entropy

HERE = bool(shutil.which(cpp_extension.get_cxx_compiler())) and cpp_extension.is_ninja_available()
FILES = [
    "chains",
    pytest.param("cpp", marks=pytest.mark.skipif(not HERE, reason="no C++ compiler, or no ninja")),
]


def ops(name):
    return chains.KERNELS if name == "chains" else cpp_ops.kernels()


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(kernels, **sizes):
    """A plain model and the same fused, float64."""
    torch.manual_seed(0)
    plain = GPT(tiny(**sizes)).double().eval()
    return plain, fused.fuse(copy.deepcopy(plain), kernels)


# ---- the swaps ----


@pytest.mark.exercise("FusedBlock.forward")
@pytest.mark.parametrize("name", FILES)
def test_matches_the_model(name):
    """Logits and every gradient, in float64; the names of all parameters are as they were."""
    plain, ours = pair(ops(name))
    tokens, found = torch.randint(97, (2, 9)), []
    for model in (plain, ours):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    names = ["loss", *dict(plain.named_parameters())]
    for name, want, got in zip(names, *found, strict=True):
        close(got, want, name)
    with torch.no_grad():
        close(ours(tokens), plain(tokens), "without gradients, where products are joined")
    assert list(ours.state_dict()) == list(plain.state_dict())


@pytest.mark.exercise("FusedBlock.forward")
def test_dropout_is_where_it_was():
    """With the same dice the same results: both branches are dropped, before the sum."""
    plain, ours = pair(chains.KERNELS, dropout=0.5)
    x, where = draw(1, 4, 32), {"rope": None, "positions": torch.arange(4)}
    outs = []
    for model in (plain, ours):
        torch.manual_seed(1)
        outs.append(model.blocks[0].train()(x, **where))
    close(outs[1], outs[0], "in training")


@pytest.mark.parametrize("name", FILES)
def test_tokens_are_the_same(name):
    """Greedy texts of a trained model: counting cache, ragged rows, project 9's tiles."""
    plain = trained(steps=30)
    ours, prompt = fused.fuse(copy.deepcopy(plain), ops(name)), torch.tensor([[3, 5, 7]])
    for model in (plain, ours):
        model.found = [
            decode(model, prompt, 12, caches_for(model, KVCache, 1, 20)),
            decode_ragged(model, [[3, 5, 7], [20, 19, 18, 17]], 9, caches_for(model, StaticCache, 2, 20)),
            decode(swap_attend(model), prompt, 9, [Cache() for _ in model.blocks]),
        ]
    assert all(torch.equal(a, b) for a, b in zip(ours.found, plain.found, strict=True))


def swap_attend(model):
    for block in model.blocks:
        block.attn.attend = tiled.attend
    return model


def test_attend_keeps_its_contract():
    """The seam behind `project` is the core's own, with every cache and mask; RoPE gets it what it needs."""
    plain, ours = pair(chains.KERNELS)
    x, rope = draw(2, 5, 32), plain.rope(torch.arange(5) + torch.tensor([[0], [3]]))
    for mine, want in zip(
        ours.blocks[0].attn.project(x, rope), plain.blocks[0].attn.project(x, rope), strict=True
    ):
        close(mine, want, "rows at different places")
    check_attend(ours.blocks[0].attn.attend, gradients=False)


@pytest.mark.parametrize("name", FILES)
def test_is_on(name):
    """The fused model runs the block that was put in, and a third of the kernels or fewer."""
    plain, ours = pair(ops(name))
    with unplugged(fused.FusedBlock.forward):
        ours(torch.tensor([[1, 2]]))
    counts = []
    for model in (plain.float(), ours.float()):
        with torch.no_grad(), traffic.Traffic() as found:
            model(torch.tensor([[1]]))
        counts.append(found.kernels.total())
    assert name == "chains" or counts[1] < 0.4 * counts[0]


@pytest.mark.exercise("side_by_side")
def test_weights_lie_side_by_side():
    """One matrix, in order; each parameter is a part of it: what trains one trains the other."""
    parts = [torch.nn.Parameter(draw(n, 5, seed=n)) for n in (3, 2, 4)]
    before = [p.detach().clone() for p in parts]
    whole = fused.side_by_side(parts)
    assert torch.equal(whole, torch.cat(before)) and not whole.requires_grad
    with torch.no_grad():
        parts[1].mul_(2)
    assert torch.equal(whole[3:5], 2 * before[1])
    assert all(isinstance(p, torch.nn.Parameter) and p.requires_grad for p in parts)
    assert {p.untyped_storage().data_ptr() for p in parts} == {whole.untyped_storage().data_ptr()}


def test_weights_that_move_are_found_again(tmp_path):
    """After an update, a cast, a copy, a loaded state: never yesterday's weights."""
    plain, ours = pair(chains.KERNELS)
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        ours(tokens)  # now they lie side by side
        changes = (
            lambda m: m.blocks[0].attn.wk.weight.mul_(3),
            lambda m: m.float().double(),
            lambda m: m.load_state_dict({k: 2 * v for k, v in m.state_dict().items()}),
            lambda m: setattr(m.blocks[0].attn.wv, "weight", torch.nn.Parameter(draw(16, 32))),
        )
        for change in changes:
            for model in (plain, ours):
                change(model)
            close(ours(tokens), plain(tokens), "after a change")
        twin = copy.deepcopy(ours)
        twin.blocks[0].attn.wq.weight.zero_()
        close(ours(tokens), plain(tokens), "after a copy was changed")
    folder = model_folder(tmp_path / "m")
    model = fused.fuse(hub.load(folder), chains.KERNELS)
    hub.save(model, tmp_path / "n")
    close(hub.load(tmp_path / "n")(tokens), model(tokens), "saved and loaded")


def test_what_cannot_be_fused_is_refused():
    """Twice, with a bias, for another device: one line each."""
    plain, ours = pair(chains.KERNELS)
    with pytest.raises(UserError, match="swap found no Block: already replaced"):
        fused.fuse(ours, chains.KERNELS)
    with pytest.raises(UserError, match="kernels for cuda, and a model on cpu"):
        fused.fuse(plain, chains.KERNELS._replace(device="cuda"))
    swap(plain, torch.nn.Linear, lambda old: torch.nn.Linear(old.in_features, old.out_features))
    with pytest.raises(UserError, match="is no plain Linear, or has a bias"):
        fused.fuse(plain, chains.KERNELS)
    plain, _ = pair(chains.KERNELS)
    only = fused.fuse(plain, chains.KERNELS, parts=(Attention,))
    assert type(only.blocks[0]) is Block and type(only.blocks[0].attn) is fused.FusedAttention


# ---- the loss in chunks ----


@pytest.mark.exercise("chunks")
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_matches_cross_entropy(rows):
    """Loss and both gradients, in chunks of any size; two targets are left out; the loss is scaled behind."""
    h, w, targets = draw(7, 5), draw(11, 5, seed=1), torch.tensor([1, -100, 10, 0, 3, 3, -1])
    inputs = [x.requires_grad_() for x in (h, w)]
    want = 3 * F.cross_entropy(h @ w.T, targets.masked_fill(targets < 0, -100))
    got = 3 * linear_cross_entropy(h, w, targets, chains.KERNELS, rows)
    close(got, want, "loss")
    for mine, true in zip(*(torch.autograd.grad(loss, inputs) for loss in (got, want)), strict=True):
        close(mine, true, "gradients")
    with torch.no_grad():
        close(3 * linear_cross_entropy(h, w, targets, chains.KERNELS, rows), want, "without gradients")


@pytest.mark.exercise("chunks")
def test_logits_never_exist_at_once():
    """The peak is the gradients and a few chunks, and does not grow with the batch."""
    w, seen = draw(400, 4, dtype=torch.float32), []

    def rows(logits, targets):
        seen.append(len(logits))
        return chains.rows(logits, targets)

    held = {}
    for N in (64, 256):
        h, targets = draw(N, 4, dtype=torch.float32), torch.arange(N)
        held[N] = peak_of(
            lambda h=h, t=targets: chunks(h, w, t, chains.KERNELS._replace(rows=rows), 16), h.device
        )
    assert max(seen) == 16
    assert held[256] - held[64] < 4 * 16 * 400 < held[64]
    assert held[256] < 4 * 256 * 400 / 2


def test_a_batch_of_no_targets_has_no_loss():
    """0, and gradients of 0: not NaN."""
    h, w = draw(3, 5).requires_grad_(), draw(11, 5)
    loss = linear_cross_entropy(h, w, torch.full((3,), -100))
    assert loss.item() == 0 and not torch.autograd.grad(loss, h)[0].any()
    with pytest.raises(UserError, match=r"give \(N, C\), \(V, C\) and \(N,\)"):
        linear_cross_entropy(h, w, torch.zeros(2, dtype=torch.long))
    with pytest.raises(UserError, match="at least 1"):
        linear_cross_entropy(h, w, torch.zeros(3, dtype=torch.long), rows=0)


# ---- counting ----


@pytest.mark.exercise("moved")
def test_bytes_of_single_operations():
    """By hand: what is read and written; views are free, what `expand` repeats is there once."""
    x, y = torch.zeros(4, 8), torch.zeros(8)
    for call, kernels, count in ((lambda: x + y, 1, 128 + 32 + 128), (lambda: x.T[:2], 0, 0),
                                 (lambda: x.add_(1), 1, 128 + 128), (lambda: torch.ones(3), 1, 12),
                                 (lambda: x.copy_(y), 1, 128 + 32 + 128), (lambda: torch.empty(9), 0, 0),
                                 (lambda: y.expand(4, 8) * 2, 1, 32 + 128), (lambda: x @ x.T, 1, 256 + 64),
                                 (lambda: F.embedding(torch.tensor([1]), x), 2, None)):  # fmt: skip
        with traffic.Traffic() as found:
            call()
        if count is None:  # the row that was picked, read and written; the table is not read
            assert found.bytes < 128
            continue
        assert (found.kernels.total(), found.bytes) == (kernels, count), found.kernels


@pytest.mark.exercise("moved")
@pytest.mark.skipif(not HERE, reason="no C++ compiler, or no ninja")
def test_bytes_of_a_fused_kernel():
    """x, residual and gain in, both results and a number a row out; in place: there and back."""
    cpp_ops.kernels()
    x, w = torch.zeros(4, 8), torch.ones(8)
    with torch.no_grad(), traffic.Traffic() as found:
        cpp_ops.add_rms_norm(x, x + 1, w, 1e-5)
    assert found.kernels.total() == 2 and found.bytes == (128 + 128) + (2 * 128 + 32 + 2 * 128 + 16)
    p = torch.nn.Parameter(torch.zeros(8))
    p.grad, optimizer = torch.ones(8), cpp_ops.AdamW([p])
    optimizer.step()
    with traffic.Traffic() as found:
        optimizer.step()
    assert (dict(found.kernels), found.bytes) == ({"thirty.adamw_": 1}, (4 + 3) * 32)
