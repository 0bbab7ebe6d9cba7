"""The claims about search: the graph beside exact search and hnswlib, words beside bm25s, fusion, passages
put together, and the semantic cache's two rates."""

import time

import numpy as np

from common import hub, tokenizer
from common.benchmark import values
from common.cli import chain
from data.tinytown import TinyTown

from . import _chunks, _dense, _fusion
from ._search import cloud
from .hnsw import HNSW, exact
from .retrieval import BM25

M, EF_BUILD, EF, K = 16, 100, 100, 10


def measure(b):
    """All of them."""
    graph(b)
    folder = chain.find("base", say=b.say)
    model, words = hub.load(folder, device=b.device).eval(), tokenizer.load(folder)
    passages(b, model, words)
    vectors(b, model, words, str(folder.name))


# ---- the graph ----


def recall(found, right):
    """The share of the right ones that was found."""
    return sum(len(set(a) & set(z)) for a, z in zip(found, right, strict=True)) / sum(map(len, right))


def timed(search, queries):
    """(answers, {"p50 ms", "p95 ms", "queries/s"}), one query after the other."""
    found, spent = [], []
    for query in queries:
        began = time.perf_counter()
        found.append(search(query))
        spent.append(1e3 * (time.perf_counter() - began))
    p50, p95 = np.quantile(spent, [0.5, 0.95])
    return found, {"p50 ms": float(p50), "p95 ms": float(p95), "queries/s": 1e3 * len(spent) / sum(spent)}


def graph(b):
    """Recall at 10 and distances a query, from an eighth to all; and hnswlib on the same vectors."""
    largest, dim = b.pick(smoke=160, quick=2000, full=50_000), b.pick(smoke=16, quick=128, full=128)
    points, queries = cloud(largest, dim, inner=16), cloud(100, dim, seed=1, inner=16)
    made, rows, built = HNSW(dim, M=M, ef_construction=EF_BUILD), [], 0.0
    for n in (largest // 8, largest // 4, largest // 2, largest):
        began = time.perf_counter()
        while len(made) < n:
            made.add(points[len(made)])
        built, made.calls = built + time.perf_counter() - began, 0
        found, speed = timed(lambda query: made.search(query, K, EF), queries)
        right = [exact(points[:n], query, K) for query in queries]
        rows.append({"at": n, "calls": made.calls / len(queries), "recall": recall(found, right), **speed})
    b.claim("recall", f"Recall at 10 among {largest} vectors of {dim} is at least 0.95", unit="of 1",
            better="higher", goal=(">=", 0.95), measured=values("HNSW", [rows[-1]["recall"]]),
            settings={"M": M, "ef": EF, "built in s": built, "sizes": rows})  # fmt: skip
    b.claim("calls", "Eight times the vectors cost at most twice the distances a query", unit="distances",
            better="lower", goal=("<=", 2), settings={"sizes": rows}, prediction=_log_growth(largest),
            measured=values("largest", [rows[-1]["calls"]], "an eighth", [rows[0]["calls"]]))  # fmt: skip
    library(b, points, queries, right, rows[-1], built)


def _log_growth(largest):
    return float(np.log(largest) / np.log(largest / 8))


def library(b, points, queries, right, ours, built):
    """The same vectors, links and ef in hnswlib."""
    sentence = "It finds at least 0.98 of what hnswlib finds with as many links and the same ef"
    goal = {"unit": "recall at 10", "better": "higher", "goal": (">=", 0.98)}
    if not b.library("hnswlib"):
        b.not_run("hnswlib", sentence, **goal, why="hnswlib is not installed (pip install hnswlib)")
        return
    import hnswlib

    theirs, began = hnswlib.Index("l2", points.shape[1]), time.perf_counter()
    theirs.init_index(len(points), M=M, ef_construction=EF_BUILD, random_seed=0)
    theirs.set_num_threads(1)
    theirs.add_items(points)
    their_built = time.perf_counter() - began
    theirs.set_ef(EF)
    found, speed = timed(lambda query: theirs.knn_query(query, K)[0][0].tolist(), queries)
    b.claim("hnswlib", sentence, **goal,
            measured=values("ours", [ours["recall"]], "hnswlib", [recall(found, right)]),
            settings={"ours": {**ours, "built in s": built},
                      "hnswlib, one thread": {**speed, "built in s": their_built}},
            why="as many distances; what they take is Python's call against C++'s loop")  # fmt: skip


# ---- passages put together ----


class Bundle:
    """What `_chunks` asks of a lab: a model, pages, a number of prompts, a device."""

    def __init__(self, b, model, words):
        stream = TinyTown().pages(seed=1)
        self.pages = [words.encode(next(stream)) for _ in range(b.pick(smoke=24, quick=100, full=200))]
        self.model, self.device, self.config = model, b.device, self
        self.prompts = b.pick(smoke=2, quick=8, full=40)


def passages(b, model, words):
    """What it costs a text that its passages were read apart, turned and not turned."""
    losses, same, errors = _chunks.compare(Bundle(b, model, words))
    first = max(errors["kept, turned"][0])
    b.claim("first-layer", "Turned, the first layer's keys of a kept passage are within 1e-5 of those read "
            "in place", unit="relative to their length", better="lower", goal=("<=", 1e-5),
            measured=values("kept, turned", [first]))  # fmt: skip
    b.claim("mended", "A text that goes on behind kept passages loses at most 2 % against passages read at "
            "once", unit="nats a token", better="lower", goal=("<=", 1.02),
            measured=values("kept, turned", losses["kept, turned"], "read at once", losses["read at once"]),
            settings={"nats": {name: float(np.mean(loss)) for name, loss in losses.items()},
                      "likeliest token the same": {n: float(np.mean(s)) for n, s in same.items()},
                      "keys off, by layer": {n: [float(np.mean(e)) for e in rows.values()]
                                             for n, rows in errors.items()}},
            why="what is left is the company that a passage did not have; see 'not turned' beside it")


# ---- words, vectors, both; and the semantic cache ----


def vectors(b, model, words, name):
    """Train vectors, then fusion and the semantic cache with them; and bm25s on the same passages."""
    town = TinyTown(population=b.pick(smoke=20, quick=40, full=100))
    steps = b.pick(smoke=1, quick=15, full=150)
    corpus = _dense.corpus(town, b.pick(smoke=16, quick=80, full=200))
    same_words(b, corpus)
    _dense.train(model, words, town, steps, b.pick(smoke=2, quick=4, full=8), say=b.say)

    def ours(texts):
        return _dense.vectors(model, words, texts)

    fusion(b, _fusion.Sides(corpus, ours), {"model": name, "steps": steps})
    asked = _fusion.stream(town, b.pick(smoke=40, quick=400, full=1500))
    found, table = ours([question for question, _ in asked]), {}
    for threshold in _fusion.THRESHOLDS:
        table[threshold] = _fusion.semantic(asked, found, threshold)
    false = table[0.95]["false_hit_rate"]
    b.claim("semantic", "At a cosine of 0.95, at most 1 in 100 hits of the semantic cache is another "
            "question's answer", unit="of the hits", better="lower", goal=("<=", 0.01),
            measured=values("semantic cache", [false if false is not None else 0.0]),
            settings={"by threshold": {str(t): report for t, report in table.items()},
                      "an exact cache hits": 1 - len({question for question, _ in asked}) / len(asked)},
            why="off by default; the settings have hits and false hits for every threshold")  # fmt: skip


def fusion(b, sides, settings):
    """Recall of every rung; the judged figure sets the learned weight beside the better side, by tenths."""
    ladder, table = sides.ladder(), {}
    for name, places in ladder.items():
        table[name] = {f"recall at {k}": [float(x) for x in _fusion.interval(places <= k)] for k in (1, 10)}
    best = max(("BM25 alone", "dense alone"), key=lambda name: table[name]["recall at 1"][0])
    tenths = np.array_split(np.arange(len(sides.sparse)), 10)

    def by_tenth(name):  # one more of each, so that a tenth of none has a logarithm
        return [float(((ladder[name][tenth] <= 1).sum() + 1) / (len(tenth) + 1)) for tenth in tenths]

    b.claim("fusion", "A learned weight finds at least 1.1 times as many right passages first as the better "
            "side alone", unit="recall at 1", better="higher", goal=(">=", 1.1),
            measured=values("learned", by_tenth("z-score, learned"), best, by_tenth(best)),
            settings={**settings, "recall [mean, low, high]": table})  # fmt: skip
    raw = np.mean(ladder["raw sum"] == ladder["BM25 alone"])
    b.say(f"raw sums: {raw:.1%} of the right passages stand where BM25 alone puts them")


def same_words(b, corpus):
    """Our scores beside bm25s's, in its Lucene variant."""
    sentence = "BM25's scores are those of bm25s, in the same variant, within 1e-4"
    goal = {"unit": "largest difference", "better": "lower", "goal": ("<=", 1e-4)}
    if not b.library("bm25s"):
        b.not_run("words", sentence, **goal, why="bm25s is not installed (pip install bm25s)")
        return
    import bm25s

    texts, ours, theirs = [_fusion.terms(text) for text in corpus.texts], None, bm25s.BM25(method="lucene")
    ours = BM25(texts, theirs.k1, theirs.b)
    theirs.index(texts, show_progress=False)
    off = 0.0
    for question in corpus.questions:
        known = [word for word in _fusion.terms(question) if word in theirs.vocab_dict]
        want = theirs.get_scores(known) if known else np.zeros(len(texts))
        off = max(off, float(np.abs(ours.scores(known) - want).max()))
    b.claim("words", sentence, **goal, measured=values("ours", [off]),
            settings={"passages": len(texts), "questions": len(corpus.questions)})  # fmt: skip
