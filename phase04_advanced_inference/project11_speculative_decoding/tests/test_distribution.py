"""The whole of it, drawn many times: the texts are as frequent as the large model alone would have them."""

import copy
import math

import pytest
import torch

from common.generate import Sampling
from common.model import GPT
from common.testing import tiny
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for
from phase04_advanced_inference.project11_speculative_decoding._break import chi_square
from phase04_advanced_inference.project11_speculative_decoding.drafts import ModelDraft
from phase04_advanced_inference.project11_speculative_decoding.rounds import Text, speculate
from phase04_advanced_inference.project11_speculative_decoding.speculative import pick, probabilities

PROMPT, N, V, ROWS = [2, 0, 1], 3, 5, 200


def pair():
    """An untrained model with large weights, and the same one, far less sure of everything."""
    torch.manual_seed(1)
    large = GPT(tiny(vocab_size=V, d_model=16, d_ff=24, max_seq_len=16)).eval()
    with torch.no_grad():
        for p in large.parameters():
            p.mul_(9 if p.dim() > 1 else 1)
        small = copy.deepcopy(large)
        small.head.weight.mul_(0.3)
    return large, small


LARGE, SMALL = pair()
HOW = Sampling(max_tokens=N, temperature=1.2)


@torch.no_grad()
def true_shares():
    """What the large model alone gives each of the V**N texts."""
    texts = torch.cartesian_prod(*[torch.arange(V)] * N)  # (V**N, N)
    rows = torch.cat((torch.tensor([PROMPT]).expand(len(texts), -1), texts), 1)
    logits = LARGE(rows)[:, len(PROMPT) - 1 : -1]  # (V**N, N, V)
    shares = torch.stack([probabilities(row, HOW) for row in logits])
    return shares.gather(2, texts[..., None]).squeeze(2).prod(1)


def drawn(n, draft=ModelDraft):
    """How often each of the V**N texts came in n draws, a seed each, 200 texts in a forward."""
    counts = torch.zeros(V**N, dtype=torch.long)
    for first in range(0, n, ROWS):
        texts = [Text(i, PROMPT, Sampling(max_tokens=N, temperature=HOW.temperature, seed=first + i), LARGE)
                 for i in range(min(ROWS, n - first))]  # fmt: skip
        for _ in speculate(LARGE, texts, draft(SMALL, 2, ROWS), caches_for(LARGE, StaticCache, ROWS, 8)):
            pass
        for text in texts:
            a, b, c = text.new
            counts[(a * V + b) * V + c] += 1
    return counts


class LongestMatch(ModelDraft):
    """The wrong rule: keep guesses while the large model likes them best, then draw from its shares."""

    def verify(self, text, logits):
        self.q.pop(text.id, None)
        p = probabilities(logits, text.sampling)
        u = torch.rand(1, generator=torch.Generator().manual_seed(text.row.seed * 7 + text.n_new)).item()
        for i, x in enumerate(text.guesses):
            if x != int(p[i].argmax()):
                return [*text.guesses[:i], pick(p[i], u)]
        return [*text.guesses, pick(p[-1], u)]


class Sure(ModelDraft):
    """The last guess of a round is the first to which the draft gives less than a quarter."""

    def __init__(self, *args):
        super().__init__(*args, sure=0.25)


class Drops(Sure):
    """Seems the same, and saves a row: the guess that is not sure is not even asked about."""

    def propose(self, texts):
        super().propose(texts)
        for text in texts:
            if text.guesses and self.q[text.id][len(text.guesses) - 1, text.guesses[-1]] < self.sure:
                text.guesses = text.guesses[:-1]


def test_the_pair_is_worth_testing():
    """The two models disagree enough for both halves of the rule to be needed."""
    with torch.no_grad():
        p, q = (probabilities(m(torch.tensor([PROMPT]))[0, -1:], HOW)[0] for m in (LARGE, SMALL))
    assert 0.2 < torch.minimum(p, q).sum() < 0.95 and true_shares().sum() == pytest.approx(1)


@pytest.mark.parametrize("draft", [ModelDraft, Sure])
@pytest.mark.parametrize("n", [2000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_sampled_texts_are_as_frequent_as_they_should_be(n, draft):
    """n texts of three tokens, all 125 possible ones counted: chi-square, p over 0.01."""
    p = chi_square(drawn(n, draft), true_shares())
    assert p > 0.01, f"p = {p:.2g}"


@pytest.mark.parametrize("n", [2000, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("draft", [LongestMatch, Drops])
def test_rules_that_seem_right_are_refused(n, draft):
    """The same count refuses longest match, and a draft that takes back what it is not sure of."""
    p = chi_square(drawn(n, draft), true_shares())
    assert math.isfinite(p) and p < 1e-6, f"p = {p:.2g}"
