"""Collectives by send and receive: the sums are right, and no rank sends a byte more than it must."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from phase08_parallelism.project23_tensor_parallelism import collectives
from phase08_parallelism.project23_tensor_parallelism.collectives import Wire, bytes_sent
from phase08_parallelism.project23_tensor_parallelism.groups import ALONE, Ring
from phase08_parallelism.project23_tensor_parallelism.threads import ranks

WORLDS = [1, 2, 3, 5]


def drawn(*shape, seed=0):
    """Whole numbers, so that every order of adding them up gives the same."""
    return torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(seed)).float()


def to_the_right(wire, log):
    """All messages of a rank went to its right neighbour."""
    assert {message.target for message in log} <= {(wire.rank + 1) % wire.world}


@pytest.mark.exercise("reduce_scatter")
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("combine", [torch.add, torch.maximum])
def test_reduce_scatter(world, combine):
    """Rank r has part r, combined; N - 1 messages, all to the right; what was given is as it was."""
    x = drawn(world, world, 3)  # rank, part, numbers
    whole = x.sum(0) if combine is torch.add else x.amax(0)

    def work(wire):
        given, wire.log = x[wire.rank].clone(), []
        part = collectives.reduce_scatter(wire, list(given), combine)
        to_the_right(wire, wire.log)
        assert torch.equal(given, x[wire.rank]), "the tensors that were given have changed"
        assert wire.sent == (world - 1) * 3 * 4 and len(wire.log) == world - 1
        return part

    for rank, part in enumerate(ranks(world, work)):
        assert torch.equal(part, whole[rank]), f"rank {rank} of {world}"


@pytest.mark.exercise("all_gather")
@pytest.mark.parametrize("world", WORLDS)
def test_all_gather(world):
    """Every rank has all parts, of different sizes, in the tensors that it gave; all go to the right."""
    parts = [drawn(size + 1, seed=size) for size in range(world)]

    def work(wire):
        wire.log = []
        mine = [part if r == wire.rank else torch.zeros_like(part) for r, part in enumerate(parts)]
        places = [part.data_ptr() for part in mine]
        collectives.all_gather(wire, mine)
        to_the_right(wire, wire.log)
        assert [part.data_ptr() for part in mine] == places
        return mine

    for mine in ranks(world, work):
        assert all(torch.equal(a, b) for a, b in zip(mine, parts, strict=True))


@pytest.mark.exercise("broadcast")
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("piece", [2, 100])
def test_broadcast(world, piece):
    """Everybody has what the source had; each rank but the last sends it once, and while it receives."""
    source, x = world // 2, drawn(7)

    def work(wire):
        mine, exchanges, plain, wire.log = torch.zeros(7), [], wire.exchange, []
        mine = x.clone() if wire.rank == source else mine
        wire.exchange = lambda *args, **names: (exchanges.append(1), plain(*args, **names))
        collectives.broadcast(wire, mine, source, piece)
        to_the_right(wire, wire.log)
        last = (wire.rank + 1) % world == source
        assert wire.sent == (0 if last else x.nbytes), f"rank {wire.rank} sent {wire.sent} bytes"
        assert len(exchanges) <= -(-7 // piece) + 1, "it receives and sends in turn, not at once"
        return mine

    assert all(torch.equal(mine, x) for mine in ranks(world, work))


@pytest.mark.exercise("reduce_scatter", "all_gather")
@settings(max_examples=15, deadline=None)
@given(world=st.integers(2, 4), n=st.integers(0, 11), seed=st.integers(0, 99))
def test_matches_the_star_and_the_formula(world, n, seed):
    """Any length, also fewer numbers than ranks: the naive sum, the same bits everywhere, exact bytes."""
    x = torch.randn(world, n, generator=torch.Generator().manual_seed(seed))

    def work(wire):
        total, sent = collectives.all_reduce(wire, x[wire.rank]), wire.sent
        return total, sent, collectives.star_all_reduce(wire, x[wire.rank])

    found = ranks(world, work)
    for rank, (total, sent, naive) in enumerate(found):
        torch.testing.assert_close(total, naive)
        assert torch.equal(total, found[0][0]), "the ranks have different sums"
        assert sent == bytes_sent(n, world, rank)


def test_bytes_are_the_least_that_there_can_be():
    """2 (N - 1)/N of the tensor for each rank; the star's middle sends N - 1 times the tensor."""
    for world in (2, 4, 8):
        assert bytes_sent(1 << 20, world, 3 % world) == 2 * (world - 1) / world * 4 * (1 << 20)
    sent = ranks(4, lambda wire: (collectives.star_all_reduce(wire, torch.ones(8)), wire.sent)[1])
    assert sent == [3 * 32, 32, 32, 32]
    assert bytes_sent(5, 1) == 0


def test_shapes_and_strides_are_kept():
    """A transposed matrix and a scalar come back as they were laid, and are not written to."""
    x = drawn(3, 4).T

    def work(wire):
        total = Ring(wire).all_reduce(x)
        one = Ring(wire).all_reduce(torch.tensor(float(wire.rank)), torch.maximum)
        return total, one

    before = x.clone()
    for total, one in ranks(3, work):
        assert torch.equal(total, 3 * before) and one.shape == () and one == 2
    assert torch.equal(x, before)


def test_one_rank_alone_sends_nothing():
    x = drawn(4)
    assert torch.equal(ALONE.all_reduce(x), x) and torch.equal(ALONE.reduce_scatter(x, 0), x)
    assert torch.equal(ALONE.all_gather(x, 0), x) and torch.equal(ALONE.start(x)(), x)
    with pytest.raises(UserError, match="torchrun"):
        Wire().exchange(x, 1)


def test_rows_that_cannot_be_shared_out_are_refused():
    with pytest.raises(UserError, match="7 rows"):
        ranks(2, lambda wire: Ring(wire).reduce_scatter(drawn(2, 7), 1))
