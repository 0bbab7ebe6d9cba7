"""Token files and batches: pure functions of (seed, step, rank), checked exhaustively on small sizes."""

import collections
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from data.loader import ROUNDS, loader, read, scramble, shuffle, sidecar, window_starts, write


def keys(*seed):
    return list(np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64))


@pytest.fixture
def file(tmp_path):
    """1,000 tokens, each its own place, so that a batch shows where it was read."""
    return write(tmp_path / "train.bin", [range(600), [], range(600, 1000)], vocab_size=1000, tokenizer="abc")


# The permutation and the windows

def test_scramble_gives_the_published_numbers_of_splitmix64():
    states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert scramble(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("n", [*range(1, 70), 255, 256, 257, 1000, 4097])
def test_shuffle_is_a_permutation(n):
    for seed in range(3):
        assert sorted(shuffle(np.arange(n), n, keys(seed)).tolist()) == list(range(n))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 1 << 50), st.integers(0, 1 << 32), st.data())
def test_shuffle_stays_inside_and_one_to_one_at_any_size(n, seed, data):
    indices = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=50, unique=True)))
    places = shuffle(indices, n, keys(seed))
    assert places.max() < n and len(set(places.tolist())) == len(indices)


def test_every_order_of_four_is_about_as_likely():
    counts = collections.Counter(tuple(shuffle(np.arange(4), 4, keys(1, i)).tolist()) for i in range(4800))
    squares = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert len(counts) == 24 and squares < 49.7  # chi-square of 23 degrees of freedom, one in a thousand


def test_neighbours_do_not_stay_neighbours():
    places = shuffle(np.arange(100_000), 100_000, keys(5)).astype(np.int64)
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(places, np.arange(100_000))[0, 1]) < 0.02
    assert np.mean(np.abs(np.diff(places)) == 1) < 0.001


@pytest.mark.parametrize("n_tokens, context",
                         [(2, 1), (3, 2), (5, 4), (8, 4), (9, 4), (13, 4), (100, 7), (1000, 8)])
def test_an_epoch_has_each_window_once_and_no_token_is_predicted_twice(n_tokens, context):
    n = max(1, (n_tokens - 1) // context - 1)
    offsets = set()
    for epoch in range(40):
        starts = window_starts(n_tokens, context, 3, np.arange(epoch * n, (epoch + 1) * n))
        targets = (starts[:, None] + 1 + np.arange(context)).ravel()
        assert len(set(targets.tolist())) == n * context and targets.min() >= 1 and targets.max() < n_tokens
        assert n_tokens - n * context <= 2 * context
        offsets.add(int(starts.min()))
    room = min(context - 1, n_tokens - 1 - n * context)
    assert max(offsets) <= room and len(offsets) > 0.8 * (room + 1) * (1 - np.exp(-40 / (room + 1)))


def test_two_epochs_and_two_seeds_differ():
    one, two = (window_starts(10_000, 8, seed, np.arange(2000)) for seed in (0, 1))
    n = 9999 // 8 - 1
    assert (one != two).mean() > 0.99 and (one[: 2000 - n] != one[n:]).mean() > 0.9


def test_the_function_has_not_changed():
    """A run that is resumed with a later version of this file must see the same batches."""
    assert window_starts(1_000_000, 64, 1234, np.arange(4)).tolist() == [282086, 334374, 979046, 541734]
    assert window_starts(1000, 8, 0, np.array([0, 1, 2, 200, 1 << 40])).tolist() == [710, 598, 366, 644, 965]


# Batches

def test_targets_are_inputs_one_later(file):
    x, y = file.batch(1, 5, batch_size=6, context=16)
    assert x.shape == y.shape == (6, 16) and x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 1)  # token i of this file is i


def test_ranks_never_overlap_and_together_see_the_whole_epoch(file):
    batch_size, context, world = 3, 8, 4  # 123 windows: 10 steps of 12, and 3 left over
    seen = [int(start) for step in range(10) for rank in range(world)
            for start in file.batch(9, step, rank, world, batch_size=batch_size, context=context)[0][:, 0]]
    assert len(set(seen)) == len(seen) == 120 and len({start % context for start in seen}) == 1


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_any_number_of_ranks_sees_the_same_global_batches(file, world):
    alone = file.batch(9, 4, batch_size=6, context=8)[0]
    shared = [file.batch(9, 4, rank, world, batch_size=6 // world, context=8)[0] for rank in range(world)]
    assert torch.equal(torch.cat(shared), alone)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_any_number_of_workers_gives_the_same_batches_in_the_same_order(file, workers):
    found = list(loader(file, seed=2, batch_size=4, context=16, stop=12, workers=workers))
    assert len(found) == 12
    for step, (x, y) in enumerate(found):
        expected = file.batch(2, step, batch_size=4, context=16)
        assert torch.equal(x, expected[0]) and torch.equal(y, expected[1])


def test_resuming_gives_the_steps_that_were_left(file):
    whole = list(loader(file, seed=2, batch_size=4, context=16, stop=9, rank=1, world=2))
    rest = list(loader(file, seed=2, batch_size=4, context=16, start=5, stop=9, rank=1, world=2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[5:], rest, strict=True))


def test_a_sweep_predicts_every_token_but_the_first_once(file):
    for context, batch_size in ((8, 5), (999, 2), (1000, 2), (37, 100)):
        targets = torch.cat([y.flatten() for _, y in file.sweep(batch_size=batch_size, context=context)])
        assert targets.tolist() == list(range(1, 1000))


def test_a_text_shorter_than_a_context_is_one_line(file):
    assert file.batch(0, 0, batch_size=1, context=999)[0].shape == (1, 999)
    with pytest.raises(UserError, match="1,000 tokens, too few for one context of 1,000"):
        file.batch(0, 0, batch_size=1, context=1000)


# Files

def test_what_is_written_is_read_and_maps(file):
    again = read(file.path, tokenizer="abc")
    assert again == file and again.tokens.tolist() == list(range(1000))
    assert file.path.stat().st_size == 2000 and isinstance(again.tokens, np.memmap)
    assert len(pickle.dumps(again)) < 1000  # what travels to a worker is the path, not the tokens


@pytest.mark.parametrize("vocab_size, size", [(65_536, 2), (65_537, 4)])
def test_ids_take_two_bytes_as_long_as_they_fit(tmp_path, vocab_size, size):
    file = write(tmp_path / "a.bin", [[0, vocab_size - 1]], vocab_size=vocab_size, tokenizer="t")
    assert file.path.stat().st_size == 2 * size and file.tokens.tolist() == [0, vocab_size - 1]
    assert file.path.read_bytes()[size:] == (vocab_size - 1).to_bytes(size, "little")


def test_sequences_may_be_any_iterables_of_ids(tmp_path):
    sequences = ([1, 2], (3,), np.array([4, 5]), iter([6]), torch.tensor([7]))
    file = write(tmp_path / "a.bin", sequences, vocab_size=10, tokenizer="t")
    assert file.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("sequences, message", [
    ([], "would be empty"), ([[], []], "would be empty"),
    ([[1], [2, 10]], "token id 10 is outside the vocabulary of 10"), ([[-1]], "token id -1 is outside"),
])
def test_what_cannot_be_written_leaves_the_older_file(tmp_path, sequences, message):
    older = write(tmp_path / "a.bin", [[1, 2, 3]], vocab_size=10, tokenizer="t")
    with pytest.raises(UserError, match=message):
        write(tmp_path / "a.bin", sequences, vocab_size=10, tokenizer="t")
    assert read(older.path).tokens.tolist() == [1, 2, 3]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "a.bin.json"]


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    def half():
        yield [1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.bin", half(), vocab_size=10, tokenizer="t")
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_is_never_read_by_an_older_sidecar(file, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", killed)  # between the renaming of the tokens and that of the sidecar
    with pytest.raises(KeyboardInterrupt):
        write(file.path, [range(1000)], vocab_size=1000, tokenizer="xyz")
    with pytest.raises(UserError, match="no readable sidecar"):
        read(file.path, tokenizer="abc")


def test_another_tokenizer_is_refused(file):
    with pytest.raises(UserError, match=r"another tokenizer \(abc, not xyz\)"):
        read(file.path, tokenizer="xyz")


def test_a_file_that_is_not_there_or_not_whole_is_refused(file):
    with pytest.raises(UserError, match="there is no token file"):
        read(file.path.with_name("valid.bin"))
    file.path.write_bytes(file.path.read_bytes()[:-2])
    with pytest.raises(UserError, match="is not the 1,000 tokens"):
        read(file.path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"n_tokens": 1}',
                                  '{"n_tokens": 1, "vocab_size": 2, "tokenizer": "t", "dtype": "nonsense"}'])
def test_a_sidecar_that_says_nothing_is_refused(file, text):
    sidecar(file.path).write_text(text)
    with pytest.raises(UserError, match="no readable sidecar"):
        read(file.path)


def test_no_sidecar_and_an_empty_file_are_refused(file):
    about = json.loads(sidecar(file.path).read_text())
    sidecar(file.path).unlink()
    with pytest.raises(UserError, match="no readable sidecar"):
        read(file.path)
    sidecar(file.path).write_text(json.dumps({**about, "n_tokens": 0}))
    file.path.write_bytes(b"")
    with pytest.raises(UserError, match="is not the 0 tokens"):
        read(file.path)
