"""See: what a graph finds and what it costs, what fusing words and vectors finds, and false hits."""

import numpy as np

from common import plots

from . import _fusion
from .hnsw import HNSW, exact


def cloud(n, dim, seed=0, inner=12):
    """(n, dim) float32 of an inner dimension of 12, as embeddings have: noise has no near and far."""
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(n, inner)) @ np.random.default_rng(99).normal(size=(inner, dim))).astype("f")


def recall_of(graph, points, queries, ef, k=10):
    """(recall at k, distances a query)."""
    graph.calls, found = 0, 0
    for query in queries:
        found += len(set(graph.search(query, k, ef)) & set(exact(points, query, k)))
    return found / (k * len(queries)), graph.calls / len(queries)


def graph(lab):
    """Distances a query against the number of vectors, and recall against how many are kept in view (ef)."""
    largest, queries = lab.config.points, cloud(50, 64, seed=1)
    points, made = cloud(largest, 64), HNSW(64, M=12, ef_construction=60)
    sizes = [largest // 16, largest // 8, largest // 4, largest // 2, largest]
    calls, found = [], {}
    for n in sizes:
        while len(made) < n:
            made.add(points[len(made)])
        recall, cost = recall_of(made, points[:n], queries, 50)
        calls.append(cost)
        found[f"recall among {n}"] = recall
        lab.say(f"  {n:6} vectors: {cost:7.0f} distances a query, recall at 10 {recall:.3f}")
    fig, ((left, right),) = plots.figure(1, 2, width=10.5)
    left.plot(sizes, sizes, ":", color=plots.QUIET, label="all of them")
    left.plot(sizes, calls, "o-", label="the graph, ef 50")
    left.set(title="Distances a query", xlabel="vectors", xscale="log", yscale="log")
    plots.legend(left)
    wide = [10, 15, 25, 50, 100, 200]
    recalls = [recall_of(made, points, queries, ef) for ef in wide]
    right.plot([cost for _, cost in recalls], [recall for recall, _ in recalls], "o-")
    for ef, (recall, cost) in zip(wide, recalls, strict=True):
        right.annotate(f"ef {ef}", (cost, recall), xytext=(6, -12), textcoords="offset points", fontsize=10)
    right.set(title=f"Recall at 10 of {largest:,}", xlabel="distances a query", ylim=(None, 1.01))
    lab.save(fig, "graph.png")
    return {**found, "calls at the largest": calls[-1], "calls at a sixteenth": calls[0]}


def fusion(lab):
    """Words, vectors of our own model, and what fuses them: recall, and the weight that each kind needs."""
    lab.say("  training the vectors")
    found = _fusion.tell_ladder(lab.sides, lab.say)
    lab.save(_fusion.weight_map(lab.sides), "fusion.png")
    return found


def semantic(lab):
    """The semantic cache on a stream of questions: hits, and false hits, by threshold."""
    asked = _fusion.stream(lab.town, 2 * lab.config.turns)
    vectors, rows = lab.vectors([question for question, _ in asked]), []
    for threshold in _fusion.THRESHOLDS:
        report = _fusion.semantic(asked, vectors, threshold)
        rows.append((report["hit_rate"], report["false_hit_rate"] or 0.0))
        lab.say(f"  threshold {threshold:4.2f}: {rows[-1][0]:6.1%} of the questions hit, "
                f"{rows[-1][1]:6.1%} of the hits were another question's answer")  # fmt: skip
    repeats = 1 - len({meaning for _, meaning in asked}) / len(asked)
    exact_hits = 1 - len({question for question, _ in asked}) / len(asked)
    lab.say(f"  an exact cache would hit {exact_hits:.1%}; {repeats:.1%} were asked before in some words")
    fig, ((ax,),) = plots.figure(width=8.0)
    ax.plot(_fusion.THRESHOLDS, [hit for hit, _ in rows], "o-", label="hits, of all questions")
    ax.plot(_fusion.THRESHOLDS, [false for _, false in rows], "s-", label="false hits, of the hits")
    plots.level(ax, exact_hits, "hits of an exact cache")
    ax.set(title="The lower the threshold, the more it hits, and the more often wrongly",
           xlabel="least cosine that counts as the same question", ylim=(0, 1.02))  # fmt: skip
    plots.legend(ax)
    lab.save(fig, "semantic.png")
    return {"exact": exact_hits, "asked before": repeats,
            **{f"hits at {t}": hit for t, (hit, _) in zip(_fusion.THRESHOLDS, rows, strict=True)},
            **{f"false at {t}": false for t, (_, false) in zip(_fusion.THRESHOLDS, rows, strict=True)}}
