"""A model in parts against the whole one: logits, loss and every gradient, on 1, 2 and 4 virtual ranks."""

import copy
from functools import cache
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from common.generate import Sampling, generate
from common.model import GPT, Attention, Cache, SwiGLU
from common.testing import close, tiny
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism import regions, tensor_parallel, vocabulary
from phase08_parallelism.project23_tensor_parallelism.collectives import bytes_sent
from phase08_parallelism.project23_tensor_parallelism.groups import Ring
from phase08_parallelism.project23_tensor_parallelism.regions import Region
from phase08_parallelism.project23_tensor_parallelism.tensor_parallel import (
    RowLinear,
    cuts,
    finish_gradients,
    gradient_norm,
    head_shares,
    share,
)
from phase08_parallelism.project23_tensor_parallelism.threads import ranks

B, T = 2, 8


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@cache
def whole(tie=False, n_kv_head=2):
    """(a model in float64 whose logits are of about 1, a batch, its loss, its logits, its gradients)"""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(n_layer=1, d_model=16, d_ff=20, tie_embeddings=tie, n_kv_head=n_kv_head)).double()
        tokens = torch.randint(97, (B, T + 1))
    for p in model.parameters():
        p.data.mul_(6 if p.dim() > 1 else 1)
    batch, made = (tokens[:, :-1], tokens[:, 1:]), copy.deepcopy(model)
    logits = made(batch[0])
    F.cross_entropy(logits.flatten(0, 1), batch[1].flatten()).backward()
    loss = CausalLM(made)(batch).item()
    return model, batch, loss, logits.detach(), {name: p.grad for name, p in made.named_parameters()}


def part(x, cut, rank, world):
    """What of a whole parameter or its gradient rank `rank` should have."""
    return x.chunk(cut.parts, cut.dim)[rank * cut.parts // world]


def step(wire, tie, n_kv_head, sequence):
    """One rank's forward, loss and backward: what it found."""
    model, batch, *_ = whole(tie, n_kv_head)
    group = Ring(wire)
    mine = tensor_parallel.apply(copy.deepcopy(model), group, sequence)
    loss = vocabulary.ParallelCausalLM(mine)(batch)
    loss.backward()
    finish_gradients(mine, group, sequence)
    norm, logits = gradient_norm(mine, group), mine(batch[0]).detach()
    return loss.item(), logits, norm.item(), {n: p.grad for n, p in mine.named_parameters()}, cuts(mine)


CASES = [
    (world, tie, keys, sequence)
    for world in (1, 2, 4)
    for tie, keys in ((False, 2), (True, 1), (False, 4))
    for sequence in (False, True)
]


@pytest.mark.exercise("Copy.backward", "Sum.backward", "Gather.backward", "Scatter.backward", "head_shares",
                      "RowLinear.forward", "finish_gradients", "gradient_norm", "VocabEmbedding.forward",
                      "cross_entropy")  # fmt: skip
def test_matches_one_process():
    """Loss, logits, norm of the gradient and every gradient: to 1e-5; key/value heads more and fewer than
    ranks, tied and not, all rows or a slice of them."""
    for world, tie, keys, sequence in CASES:
        situation = f"{world} ranks, {keys} key/value heads, {'tied, ' * tie}{'sequence' * sequence}"
        _, _, want, logits, grads = whole(tie, keys)
        norm = torch.stack([grad.square().sum() for grad in grads.values()]).sum().sqrt().item()
        found = ranks(world, step, tie, keys, sequence)
        for rank, (loss, mine, length, slices, how) in enumerate(found):
            assert loss == pytest.approx(want, abs=1e-5), situation
            assert length == pytest.approx(norm, rel=1e-5), situation
            close(mine, logits, f"logits, {situation}", rtol=1e-5, atol=1e-5)
            assert slices.keys() == grads.keys()
            for name, grad in slices.items():
                truth = part(grads[name], how[name], rank, world)
                close(grad, truth, f"gradient of {name}, {situation}", rtol=1e-5, atol=1e-5)


# ---- the crossings ----


@pytest.mark.exercise("Copy.backward", "Sum.backward")
def test_copy_and_sum_are_each_other_s_way_back():
    """Two ranks: y = sum of w_r x; the gradient of x is the sum of both w, that of a term is dy itself."""

    def work(wire):
        group, x = Ring(wire), torch.ones(3, requires_grad=True)
        term = (wire.rank + 2.0) * regions.Copy.apply(x, group)
        term.retain_grad()
        y = regions.Sum.apply(term, group)
        y.backward(torch.tensor([1.0, 10.0, 100.0]))
        return y.tolist(), term.grad.tolist(), x.grad.tolist()

    for found in ranks(2, work):
        assert found == ([5.0] * 3, [1.0, 10.0, 100.0], [5.0, 50.0, 500.0])


@pytest.mark.exercise("Gather.backward", "Scatter.backward")
@pytest.mark.parametrize("dim", [0, 1])
def test_gather_and_scatter_are_each_other_s_way_back(dim):
    """Along either dimension; each rank weighs what it sees by numbers of its own."""
    x, dy = drawn(4, 4), [drawn(4, 4, seed=1), drawn(4, 4, seed=2)]

    def work(wire):
        group = Ring(wire)
        own = x.chunk(2, dim)[wire.rank].clone().requires_grad_()
        regions.Gather.apply(own, group, dim).backward(dy[wire.rank])
        term = x.clone().requires_grad_()
        part = regions.Scatter.apply(term, group, dim)
        part.backward(dy[0].chunk(2, dim)[wire.rank])
        return own.grad, part.detach(), term.grad

    for rank, (own, part, term) in enumerate(ranks(2, work)):
        assert torch.allclose(own, (dy[0] + dy[1]).chunk(2, dim)[rank])
        assert torch.allclose(part, 2 * x.chunk(2, dim)[rank]) and torch.allclose(term, dy[0])


# ---- layers ----


@pytest.mark.exercise("RowLinear.forward")
def test_the_bias_of_a_row_layer_is_added_once():
    """Against the whole nn.Linear, with a bias: outputs, and gradients of input, weight and bias."""
    linear, x, dy = nn.Linear(6, 5).double(), drawn(2, 4, 6), drawn(2, 4, 5, seed=1)
    inputs = x.clone().requires_grad_()
    want = linear(inputs)
    want.backward(dy)

    def work(wire):
        start, stop = share(6, wire.rank, wire.world)
        layer = RowLinear(linear, start, stop, Region(Ring(wire)))
        own = x[..., start:stop].clone().requires_grad_()
        y = layer(own)
        y.backward(dy)
        return y.detach(), own.grad, layer.weight.grad, layer.bias.grad

    found = ranks(3, work)
    for y, _, _, bias in found:
        close(y, want, "output")
        close(bias, linear.bias.grad, "gradient of the bias")
    close(torch.cat([grad for _, grad, _, _ in found], -1), inputs.grad, "gradient of the input")
    close(torch.cat([grad for _, _, grad, _ in found], -1), linear.weight.grad, "gradient of the weight")


@pytest.mark.exercise("head_shares")
def test_who_has_which_heads():
    assert [head_shares(8, 4, rank, 2) for rank in range(2)] == [((0, 4), (0, 2)), ((4, 8), (2, 4))]
    assert [keys for _, keys in (head_shares(8, 2, rank, 4) for rank in range(4))] == [
        (0, 1), (0, 1), (1, 2), (1, 2)]  # fmt: skip
    for heads, keys, world in ((6, 6, 4), (6, 4, 3), (12, 4, 6)):
        with pytest.raises(UserError, match="heads"):
            head_shares(heads, keys, 0, world)


def test_shares_are_torch_s_chunks():
    for size in range(1, 14):
        for world in range(1, 6):
            found = [share(size, rank, world) for rank in range(world)]
            chunks = [len(chunk) for chunk in torch.arange(size).chunk(world)]
            assert [stop - start for start, stop in found if stop > start] == chunks
            assert found[0][0] == 0 and found[-1][1] == size
            assert all(a[1] == b[0] for a, b in pairwise(found))


@pytest.mark.exercise("cross_entropy")
@pytest.mark.parametrize("world", [1, 2, 4])
def test_loss_of_parts_matches_torch(world):
    """F.cross_entropy of the whole logits, and its gradient; targets that do not count; logits of 1000."""
    logits, targets = 1000 * drawn(2, 5, 97), torch.arange(10).view(2, 5) * 9
    targets[0, 3] = vocabulary.IGNORE
    inputs = logits.clone().requires_grad_()
    want = F.cross_entropy(inputs.flatten(0, 1), targets.flatten())
    want.backward()

    def work(wire):
        start, stop = share(97, wire.rank, wire.world)
        own = logits[..., start:stop].clone().requires_grad_()
        loss = vocabulary.cross_entropy(own, targets, start, Ring(wire))
        loss.backward()
        return loss.detach(), own.grad

    found = ranks(world, work)
    assert all(torch.allclose(loss, want) for loss, _ in found)
    close(torch.cat([grad for _, grad in found], -1), inputs.grad, "gradient")


# ---- what goes over the wires, what each rank holds ----


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("world", [2, 4])
def test_bytes_are_those_of_the_formula(world, sequence):
    """Two sums of (B, T, C) a block each way, one for the table, one for the head, three of a number a token
    for the loss; with sequence parallelism two halves in place of each, and as many bytes."""
    model, batch, *_ = whole(n_kv_head=4)

    def work(wire):
        mine = tensor_parallel.apply(copy.deepcopy(model), Ring(wire), sequence)
        vocabulary.ParallelCausalLM(mine)(batch).backward()
        return wire.sent

    wide, thin = B * T * model.config.d_model, B * T
    half = (world - 1) * wide // world * 8  # an all-gather or a reduce-scatter
    for rank, sent in enumerate(ranks(world, work)):
        tokens = 3 * bytes_sent(thin, world, rank, 8)
        if sequence:  # the table's way in and back, two crossings for each of two branches, the head's
            assert sent == tokens + half * (2 + 2 * 4 * model.config.n_layer + 2)
        else:
            assert sent == tokens + bytes_sent(wide, world, rank, 8) * (4 * model.config.n_layer + 2)


def test_each_rank_holds_its_part():
    """Half of every matrix on 2 ranks, at most 0.52 of all numbers; together all of them."""
    model, *_ = whole()
    counts = ranks(2, lambda wire: [p.numel() for p in tensor_parallel.apply(
        copy.deepcopy(model), Ring(wire)).parameters()])  # fmt: skip
    total = sum(p.numel() for p in model.parameters())
    norms = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert sum(map(sum, counts)) == total + norms
    assert max(map(sum, counts)) <= 0.52 * total


def test_caches_and_generation_work():
    """Each rank caches its own heads; every rank writes the one-process tokens."""
    model, *_ = whole()
    sampling = Sampling(max_tokens=6, temperature=0)
    want = generate(model, [[5, 6, 7]], sampling, eos_ids=())[0].ids

    def work(wire):
        mine, caches = tensor_parallel.apply(copy.deepcopy(model), Ring(wire)), [Cache()]
        with torch.no_grad():
            mine(torch.tensor([[5, 6, 7]]), caches=caches)
        return generate(mine, [[5, 6, 7]], sampling, eos_ids=())[0].ids, caches[0].k.size(1)

    assert ranks(2, work) == [(want, 1)] * 2


def test_is_on():
    """The whole layers are gone, and a group that raises is reached."""
    model = tensor_parallel.apply(copy.deepcopy(whole()[0]), Ring(_Broken(2)))
    assert not [m for m in model.modules() if type(m) in (Attention, SwiGLU)]
    with pytest.raises(ZeroDivisionError):
        model(torch.tensor([[1, 2]]))


class _Broken:
    def __init__(self, world):
        self.rank, self.world = 0, world

    def exchange(self, *_, **__):
        raise ZeroDivisionError


class TestBadInput:
    def test_rows_that_do_not_come_out_even(self):
        with pytest.raises(UserError, match="--context"):
            ranks(2, lambda wire: tensor_parallel.apply(copy.deepcopy(whole()[0]), Ring(wire), True)(
                torch.tensor([[1, 2, 3]])))  # fmt: skip

    def test_a_vocabulary_too_small(self):
        model = GPT(tiny(vocab_size=4, n_head=8, d_model=16, n_kv_head=8))
        with pytest.raises(UserError, match="start fewer ranks"):
            ranks(8, lambda wire: tensor_parallel.apply(copy.deepcopy(model), Ring(wire)))

    def test_twice(self):
        model = tensor_parallel.apply(copy.deepcopy(whole()[0]), Ring(_Broken(2)))
        with pytest.raises(UserError, match="swap found no"):
            tensor_parallel.apply(model, Ring(_Broken(2)))
