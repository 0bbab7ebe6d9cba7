"""The rule: what is written follows the large model exactly, whatever the draft guesses."""

import math

import pytest
import torch

from common.sampling import Sampling, draw, sample
from phase04_advanced_inference.project11_speculative_decoding._break import chi_square
from phase04_advanced_inference.project11_speculative_decoding.speculative import (
    KEEP,
    accept,
    agree,
    best_k,
    expected_tokens,
    pick,
    probabilities,
    residual,
    speedup,
)  # fmt: skip


def test_chi_square_itself():
    """The 5 % points of the tables: 3.841 for two cells, 11.070 for six; rare cells count as one."""
    two, six = torch.tensor([500, 500]), torch.full((6,), 600)
    assert chi_square(two, torch.tensor([0.5, 0.5])) == 1
    off = math.sqrt(3.841 * 250)
    assert chi_square(torch.tensor([500 + off, 500 - off]), torch.ones(2)) == pytest.approx(0.05, abs=1e-3)
    step = math.sqrt(11.070 * 100)
    moved = six + torch.tensor([1, -1, 1, -1, 1, -1]) * step
    assert chi_square(moved, torch.ones(6)) == pytest.approx(0.05, abs=1e-3)
    rare = torch.tensor([500 + off, 500 - off, 2, 1, 0])
    due = torch.tensor([0.4985, 0.4985, 0.001, 0.001, 0.001])
    assert chi_square(rare, due) == pytest.approx(0.147, abs=0.01)
    assert chi_square(torch.tensor([9, 1]), torch.tensor([1.0, 0.0])) == 0
    assert chi_square(torch.full((400,), 5), torch.ones(400)) > 0.99 > 0.01 > chi_square(
        torch.tensor([6, 4] * 20 + [9, 1] * 180), torch.ones(400))  # fmt: skip


def shares(rows, V=6, seed=0, sharp=1.5):
    generator = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(rows, V, generator=generator, dtype=torch.float64)).softmax(-1)


def rounds(n, p, q, rule=accept, seed=0):
    """n verdicts on guesses drawn from q (G, V), as if every guess had led to the same shares."""
    generator = torch.Generator().manual_seed(seed)
    guesses = torch.stack([torch.multinomial(row, n, replacement=True, generator=generator) for row in q], 1)
    draws = torch.rand(n, len(q) + 1, 2, generator=generator, dtype=torch.float64)
    return guesses, [rule(g, p, q, u) for g, u in zip(guesses.tolist(), draws, strict=True)]


# ---- accept ----


@pytest.mark.exercise("accept", "residual")
@pytest.mark.parametrize("seed", range(2))
def test_what_is_written_follows_the_large_model(seed):
    """Over 2,000 rounds, each place that is reached has the large model's shares: chi-square, p over 0.01."""
    p, q = shares(3, seed=seed), shares(2, seed=10 + seed)
    _, verdicts = rounds(2000, p, q, seed=seed)
    for place in range(3):
        ids = torch.tensor([ids[place] for ids in verdicts if len(ids) > place])
        assert len(ids) > 100
        assert chi_square(torch.bincount(ids, minlength=6), p[place]) > 0.01, f"place {place}"


def longest_match(guesses, p, q, draws):
    """The rule that seems right: keep guesses while they are what the large model likes best."""
    for i, x in enumerate(guesses):
        if x != int(p[i].argmax()):
            return [*guesses[:i], pick(p[i], draws[i, 1])]
    return [*guesses, pick(p[len(guesses)], draws[len(guesses), 1])]


def no_residual(guesses, p, q, draws):
    """The rule with its second half forgotten: the replacement is drawn from p."""
    for i, x in enumerate(guesses):
        if draws[i, 0] * q[i, x] >= p[i, x]:
            return [*guesses[:i], pick(p[i], draws[i, 1])]
    return [*guesses, pick(p[len(guesses)], draws[len(guesses), 1])]


@pytest.mark.parametrize("rule", [longest_match, no_residual])
def test_the_same_test_refuses_wrong_rules(rule):
    """Longest match, and the rule without its residual, shift the first token: p under a millionth."""
    p, q = shares(3), shares(2, seed=10)
    _, verdicts = rounds(2000, p, q, rule)
    assert chi_square(torch.bincount(torch.tensor([ids[0] for ids in verdicts]), minlength=6), p[0]) < 1e-6


@pytest.mark.exercise("accept")
def test_as_many_are_kept_as_the_two_overlap():
    """The first guess is kept with the chance sum of min(p, q), and every list has the bonus or a mend."""
    p, q = shares(3, seed=4), shares(2, seed=5)
    guesses, verdicts = rounds(2000, p, q)
    kept = [len(ids) > 1 for ids in verdicts]
    due = torch.minimum(p[0], q[0]).sum().item()
    assert sum(kept) / 2000 == pytest.approx(due, abs=4 * math.sqrt(due * (1 - due) / 2000))
    assert {len(ids) for ids in verdicts} == {1, 2, 3}
    for given, ids in zip(guesses.tolist(), verdicts, strict=True):
        assert ids[: len(ids) - 1] == given[: len(ids) - 1]


@pytest.mark.exercise("accept")
def test_a_draft_that_is_the_model_is_always_right():
    p = shares(4)
    guesses, verdicts = rounds(200, p, p[:3])
    assert [ids[:3] for ids in verdicts] == guesses.tolist() and all(len(ids) == 4 for ids in verdicts)


@pytest.mark.exercise("accept")
def test_a_sure_draft_and_a_sure_model():
    """Shares of 0 and 1: the one id that the model allows comes, whatever is guessed and drawn."""
    sure = torch.eye(5, dtype=torch.float64)
    p, high = sure[[2, 3, 4]], torch.full((3, 2), 1 - 2**-52, dtype=torch.float64)
    assert accept([2, 3], p, sure[[2, 3]], high) == [2, 3, 4]
    assert accept([2, 1], p, sure[[2, 1]], torch.zeros(3, 2, dtype=torch.float64)) == [2, 3]
    assert accept([], p[:1], sure[:0], high) == [2]


@pytest.mark.exercise("residual")
def test_the_residual_by_hand():
    """p has 0.3 more of the last and 0.2 less of the first: all of the residual is the last's."""
    p, q = (torch.tensor(x, dtype=torch.float64) for x in ([0.2, 0.3, 0.5], [0.4, 0.3, 0.3]))
    left = residual(p, q)
    assert torch.allclose(left / left.sum(), torch.tensor([0, 0, 1.0], dtype=torch.float64), atol=1e-12)
    left = residual(q, torch.tensor([0.1, 0.1, 0.8], dtype=torch.float64))
    assert torch.allclose(left / left.sum(), torch.tensor([0.6, 0.4, 0], dtype=torch.float64))
    assert torch.equal(residual(p, p), p)  # nothing is left: a sum of 0 cannot be drawn from


def test_matches_transformers(monkeypatch):
    """The same guesses, logits and draws give the ids of `transformers`' speculative sampling."""
    utils = pytest.importorskip("transformers.generation.utils")
    lengths = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        q, p = (1.5 * torch.randn(n, 7, generator=generator, dtype=torch.float64) for n in (3, 4))
        guesses = [int(row.argsort(descending=True)[seed % 3]) for row in q]
        draws = torch.rand(4, 2, generator=generator, dtype=torch.float64)
        draws[:, 1] = draws[0, 1]  # theirs draws a single replacement, wherever it stands
        monkeypatch.setattr(torch, "rand_like", lambda x, u=draws: u[:3, 0].reshape(x.shape))
        monkeypatch.setattr(
            torch, "multinomial", lambda p, num_samples, u=draws: torch.tensor([[pick(p[0], u[0, 1])]]))
        ids, kept = utils._speculative_sampling(torch.tensor([guesses]), q[None], 3, p[None])
        ours = accept(guesses, p.softmax(-1), q.softmax(-1), draws)
        assert ids[0].tolist() == ours and int(kept) == len(ours) - 1
        lengths.add(len(ours))
    assert lengths == {1, 2, 3, 4}


# ---- agree ----


@pytest.mark.exercise("agree")
def test_guesses_are_kept_up_to_the_first_that_is_wrong():
    assert agree([5, 6, 7], [5, 6, 7, 8]) == [5, 6, 7, 8]
    assert agree([5, 6, 7], [5, 1, 7, 8]) == [5, 1]
    assert agree([5, 6, 7], [2, 6, 7, 8]) == [2]
    assert agree([], [4]) == [4]


@pytest.mark.exercise("agree")
def test_a_sure_guess_needs_no_other_rule():
    """For a guess of which the draft is sure, drawing and comparing has the chances of min(1, p / q)."""
    p = shares(1, seed=3)[0]
    u = torch.rand(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    firsts = [agree([1], [pick(p, x), 0]) for x in u]
    assert chi_square(torch.bincount(torch.tensor([ids[0] for ids in firsts]), minlength=6), p) > 0.01
    assert sum(len(ids) == 2 for ids in firsts) / 2000 == pytest.approx(p[1].item(), abs=0.05)


# ---- shares, draws, formulas ----


@pytest.mark.parametrize("sampling", [
    Sampling(), Sampling(temperature=0.5, top_k=4), Sampling(top_p=0.7), Sampling(min_p=0.2, temperature=2),
    Sampling(temperature=0)], ids=str)  # fmt: skip
def test_shares_are_those_that_sample_draws_from(sampling):
    """An even comb of draws through `sample` falls upon each id as often as its share says."""
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    comb = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    ids = sample(logits.expand(4000, -1), sampling, comb)
    found = torch.bincount(ids, minlength=8) / 4000
    assert torch.allclose(found, probabilities(logits, sampling)[0].float(), atol=6e-4)
    p = probabilities(logits, sampling)[0]
    assert [pick(p, u) for u in comb[::100]] == ids[::100].tolist()


def test_streams_of_draws_are_apart():
    """The draw that decides and the draw that replaces have nothing to do with one another."""
    pairs = torch.tensor([(draw(s, i), draw(s ^ KEEP, i)) for s in range(40) for i in range(50)])
    assert abs(torch.corrcoef(pairs.T)[0, 1]) < 0.08
    counts = torch.bincount((pairs[:, 0] * 4).long() * 4 + (pairs[:, 1] * 4).long(), minlength=16)
    assert chi_square(counts, torch.ones(16)) > 0.01


@pytest.mark.exercise("expected_tokens")
def test_the_expected_length_of_a_round():
    """Counted over all ways a round can go: i guesses right and one wrong, or all right."""
    for a in (0.0, 0.3, 0.8, 1.0):
        for K in (0, 1, 4):
            ways = [(a**i * (1 - a), i + 1) for i in range(K)] + [(a**K, K + 1)]
            assert expected_tokens(a, K) == pytest.approx(sum(chance * n for chance, n in ways))
    assert expected_tokens(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))


def test_the_published_speedups():
    """The two points that the anchors give, and where guessing does not pay."""
    assert speedup(0.8, 4, 0.05) == pytest.approx(2.80, abs=5e-3)
    assert speedup(0.9, 8, 0.05) == pytest.approx(4.38, abs=5e-3)
    assert best_k(0.3, 0.5) == 0 and best_k(0.8, 0.05) > best_k(0.8, 0.2) > 1
    assert speedup(0.9, 4, 0.1, v=2) < speedup(0.9, 4, 0.1)
