"""BM25 against bm25s, the fusions, the contrastive loss, and the semantic cache's false hits."""

import math

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.model import GPT
from common.testing import tiny
from phase04_advanced_inference.project10_prompt_caching.retrieval import (
    BM25,
    LearnedFusion,
    embed,
    features,
    fuse,
    info_nce,
    minmax,
    ranks,
    raw,
    recall_at,
    reciprocal_rank,
    zscore,
)
from phase04_advanced_inference.project10_prompt_caching.semantic_cache import SemanticCache

CORPUS = [line.split() for line in (
    "mara lives in the old mill by the river", "joss sells bread and bread and bread at the market",
    "the mill was built by the river long ago", "sara lives at the market", "rain")]  # fmt: skip
QUERIES = [["mara", "lives"], ["the", "river", "river"], ["bread"], ["nobody"], ["market", "rain", "the"]]


@pytest.mark.exercise("BM25.scores")
@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.0), (2.0, 1.0)])
def test_matches_bm25s(k1, b):
    """The library's scores in its Lucene variant, word for word."""
    bm25s = pytest.importorskip("bm25s")
    theirs, ours = bm25s.BM25(method="lucene", k1=k1, b=b), BM25(CORPUS, k1, b)
    theirs.index(CORPUS, show_progress=False)
    for query in QUERIES:
        known = [word for word in query if word in theirs.vocab_dict]
        want = theirs.get_scores(known) if known else np.zeros(len(CORPUS))
        np.testing.assert_allclose(ours.scores(query), want, rtol=1e-5, atol=1e-6)


@pytest.mark.exercise("BM25.scores")
def test_a_score_by_hand():
    """One passage of two words, one of one: tf 2, and the length marked down."""
    ours = BM25([["a", "a", "b"], ["b"]])
    scale = 1.5 * (0.25 + 0.75 * 3 / 2)
    assert ours.scores(["a"]) == pytest.approx([math.log(2) * 2 / (2 + scale), 0])
    assert ours.scores(["a", "a"]) == pytest.approx(2 * ours.scores(["a"]))
    assert ours.scores([]).tolist() == [0, 0]


def test_rare_words_weigh_more():
    ours = BM25(CORPUS)
    assert ours.idf("rain") == pytest.approx(math.log(1 + 4.5 / 1.5))
    assert ours.idf("rain") > ours.idf("lives") > ours.idf("the") > ours.idf("nobody") == 0


def test_minmax():
    assert minmax(np.array([3.0, 1.0, 2.0])).tolist() == [1, 0, 0.5]
    assert minmax(np.array([2.0, 2.0])).tolist() == [0, 0]


@pytest.mark.exercise("zscore")
def test_zscore():
    found = zscore(np.array([1.0, 2.0, 3.0, 6.0]))
    assert found.mean() == pytest.approx(0) and found.std() == pytest.approx(1) and (np.diff(found) > 0).all()
    assert zscore(np.array([2.0, 2.0])).tolist() == [0, 0]


def test_ranks():
    assert ranks(np.array([0.1, 9.0, 0.1, 3.0])).tolist() == [3, 1, 4, 2]
    assert reciprocal_rank(np.array([1.0, 5.0]), np.array([3.0, 9.0])).tolist() == [2 / 62, 2 / 61]


def test_is_on_without_a_scale_one_side_wins():
    """Raw, the sum is BM25's ranking whatever the dense side says; on one scale, both are heard."""
    sparse, dense = np.array([20.0, 12.0, 1.0]), np.array([-0.9, 0.8, 0.7])
    assert ranks(fuse(sparse, dense, scale=raw)).tolist() == ranks(sparse).tolist()
    for scale in (minmax, zscore):
        assert ranks(fuse(sparse, dense, scale=scale))[1] == 1
        assert ranks(fuse(sparse, dense, 1.0, scale)).tolist() == ranks(dense).tolist()
        assert ranks(fuse(1000 * sparse, dense, scale=scale))[1] == 1, "no scale matters"
    with pytest.raises(UserError, match="in 0 to 1"):
        fuse(sparse, dense, 1.1)


def test_the_weight_is_learned():
    """Where the question's feature says which side knows, the learned weight beats every fixed one."""
    draw = np.random.default_rng(0)
    right = draw.integers(0, 20, 200)
    knows = np.arange(200) % 2  # 1: the dense side knows
    sides = draw.normal(size=(2, 200, 20))
    sides[knows, np.arange(200), right] += 4
    given = np.stack((np.ones(200), knows), 1)
    model = LearnedFusion(2).fit(given[:100], *sides[:, :100], right[:100])
    learned = np.stack([fuse(*sides[:, i], model.weight(given[i])) for i in range(100, 200)])
    fixed = [np.stack([fuse(*sides[:, i], w) for i in range(100, 200)]) for w in (0.0, 0.5, 1.0)]
    best = max(recall_at(scores, right[100:], 1) for scores in fixed)
    assert recall_at(learned, right[100:], 1) > best + 0.02
    assert model.weight([1.0, 1.0]) > 0.8 > 0.2 > model.weight([1.0, 0.0])
    assert features(BM25(CORPUS), ["rain", "the"])[2] == BM25(CORPUS).idf("rain")


@pytest.mark.exercise("info_nce")
def test_the_contrastive_loss():
    """By hand, both ways round; least where pairs agree and strangers do not."""
    q, p = torch.eye(3, 4), torch.tensor([[0.6, 0.8, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
    logits = (q @ p.T / 0.5).double()
    want = -(logits.log_softmax(1).diag().mean() + logits.log_softmax(0).diag().mean()) / 2
    assert info_nce(q, p, 0.5).item() == pytest.approx(want.item(), rel=1e-5)
    assert info_nce(q, q) < info_nce(q, p)


def test_vectors_of_our_own_model():
    """Unit length, the mean of the hidden states, and a gradient to train it by."""
    model = GPT(tiny())
    vectors = embed(model, [[1, 2, 3], [4]])
    assert vectors.shape == (2, 32) and torch.allclose(vectors.norm(dim=1), torch.ones(2))
    mean = model.hidden(torch.tensor([[1, 2, 3]]))[0].mean(0)
    assert torch.allclose(vectors[0], mean / mean.norm(), atol=1e-6)
    info_nce(vectors, vectors.detach().flip(0)).backward()
    assert model.embed.weight.grad.abs().sum() > 0
    with pytest.raises(UserError, match="empty text"):
        embed(model, [[]])


# ---- the semantic cache ----


def asked(threshold, **options):
    """A cache that knows one question, and what it answers to three others: (answers, its report)."""
    cache = SemanticCache(2, threshold, **{"enabled": True, "same": lambda a, b: a.split()[0] == b.split()[0],
                                           **options})  # fmt: skip
    cache.store("mara lives where", [2.0, 0.0], "the mill")
    found = [cache.lookup(text, [math.cos(a), math.sin(a)])
             for text, a in (("mara where", 0.1), ("sara lives where", 0.3), ("rain", 1.5))]  # fmt: skip
    return found, cache.report()


@pytest.mark.exercise("SemanticCache.lookup")
def test_false_hits_are_counted():
    """Lowering the threshold hits more often, and wrongly: the report says both."""
    assert asked(0.99) == (["the mill", None, None], {"hit_rate": 1 / 3, "false_hit_rate": 0.0})
    assert asked(0.9) == (["the mill", "the mill", None], {"hit_rate": 2 / 3, "false_hit_rate": 0.5})


@pytest.mark.exercise("SemanticCache.lookup")
def test_unjudged_is_unknown():
    assert asked(0.9, same=None)[1] == {"hit_rate": 2 / 3, "false_hit_rate": None}
    assert SemanticCache(2, enabled=True).lookup("x", [1.0, 0.0]) is None


@pytest.mark.exercise("SemanticCache.lookup")
def test_it_is_off_by_default():
    cache = SemanticCache(2)
    cache.store("q", [1.0, 0.0], "a")
    assert cache.lookup("q", [1.0, 0.0]) is None and cache.lookups == 0 and len(cache.index) == 0
    cache.enabled = True
    cache.store("q", [1.0, 0.0], "a")
    assert cache.lookup("q", [3.0, 0.0]) == "a"
    cache.enabled = False
    assert cache.lookup("q", [1.0, 0.0]) is None


def test_bad_input():
    with pytest.raises(UserError, match="zeros"):
        SemanticCache(2, enabled=True).store("q", [0.0, 0.0], "a")
    with pytest.raises(UserError, match="cosine"):
        SemanticCache(2, 0.0)
    with pytest.raises(UserError, match="nothing to search"):
        BM25([])
