"""The graph against exact search: what it finds, what it costs, and that it is the same everywhere."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from phase04_advanced_inference.project10_prompt_caching.hnsw import HNSW, exact

ROOT = Path(__file__).resolve().parents[3]


def cloud(n, D=16, seed=0, clusters=0):
    """(n, D) normal numbers; in tight clusters, if asked for."""
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(n, D)).astype(np.float32)
    if clusters:
        points = 0.05 * points + draw.normal(size=(clusters, D))[np.arange(n) % clusters]
    return points.astype(np.float32)


def built(points, **options):
    graph = HNSW(points.shape[1], **{"M": 8, "ef_construction": 40, **options})
    for point in points:
        graph.add(point)
    return graph


def recall(graph, queries, k=10, ef=60):
    found = [set(graph.search(q, k, ef)) & set(exact(graph.vectors[: len(graph)], q, k)) for q in queries]
    return sum(map(len, found)) / (k * len(queries))


POINTS = cloud(400)


@pytest.mark.exercise("HNSW.search_layer")
def test_matches_exact_search():
    """Recall at 10 of 0.95 and more, nearest first, and all of them where ef is everything."""
    graph = built(POINTS)
    queries = cloud(30, seed=1)
    assert recall(graph, queries) >= 0.95
    assert graph.search(queries[0], 10, ef=400) == exact(POINTS, queries[0], 10)
    assert graph.search(POINTS[7], 1) == [7]


@pytest.mark.exercise("HNSW.search_layer")
def test_is_on_few_are_looked_at():
    """A search measures a part of the distances, and keeps ef of them."""
    graph = built(POINTS)
    graph.calls = 0
    graph.search(POINTS[3], 5, ef=10)
    assert 10 <= graph.calls < 250
    start = [(graph.distances(POINTS[3], [0])[0], 0)]
    found = graph.search_layer(POINTS[3], start, 12, 0)
    assert len(found) == 12 and found == sorted(found) and found[0][1] == 3


@pytest.mark.exercise("HNSW.select")
def test_links_point_into_all_directions():
    """Of three to the right in a row and one to the left, the nearest right and the left come first."""
    graph = HNSW(2)
    for point in ([1.0, 0], [1.1, 0], [1.2, 0], [-2.0, 0]):
        graph.add(np.array(point, np.float32))
    near = [(1.0, 0), (1.21, 1), (1.44, 2), (4.0, 3)]
    assert graph.select(near, 2) == [0, 3] and graph.select(near, 3) == [0, 3, 1]
    assert graph.select(near, 9) == [0, 3, 1, 2] and graph.select(near, 1) == [0]


@pytest.mark.exercise("HNSW.select")
def test_clusters_are_reached():
    """Tight clusters far apart are all found: nearest links alone would leave islands."""
    points = cloud(300, clusters=6)
    assert recall(built(points, M=4), points[:30]) >= 0.95


def test_links_are_few_and_mean_somebody():
    graph = built(POINTS)
    for number, floors in enumerate(graph.links):
        for floor, links in enumerate(floors):
            assert len(links) <= (8 if floor else 16) and number not in links
            assert len(set(links)) == len(links) and all(len(graph.links[i]) > floor for i in links)
    heights = [len(floors) for floors in graph.links]
    assert 20 <= sum(h > 1 for h in heights) <= 90, "about 1 in 8 goes up"


def fingerprint():
    """The graph of 120 vectors, in one number."""
    return hashlib.sha256(repr(built(cloud(120)).links).encode()).hexdigest()


def test_the_same_graph_in_every_process():
    """Another process, with other hashes of strings, links the same; another seed does not."""
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path[:0] = [{here!r}]; import test_hnsw as t; print(t.fingerprint())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                          env={"PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.stdout.strip() == fingerprint()
    assert built(cloud(120), seed=1).links != built(cloud(120)).links


def test_matches_hnswlib():
    """As much is found as by the library, within 3 in 100."""
    hnswlib = pytest.importorskip("hnswlib")
    theirs, queries = hnswlib.Index("l2", 16), cloud(40, seed=2)
    theirs.init_index(400, M=8, ef_construction=40, random_seed=0)
    theirs.add_items(POINTS)
    theirs.set_ef(60)
    found, _ = theirs.knn_query(queries, 10)
    want = sum(len({*row.tolist()} & {*exact(POINTS, q, 10)}) for row, q in zip(found, queries, strict=True))
    assert recall(built(POINTS), queries) >= want / 400 - 0.03


def test_small_and_bad_ones():
    graph = HNSW(2)
    assert graph.search([0.0, 0.0]) == []
    assert graph.add([1.0, 1.0]) == 0 and graph.search([0.0, 0.0], 5) == [0]
    for bad in ([1.0], [np.nan, 0.0]):
        with pytest.raises(UserError, match="finite numbers"):
            graph.add(bad)
    with pytest.raises(UserError, match="at least 1"):
        graph.search([0.0, 0.0], 0)
    with pytest.raises(UserError, match="at least 2"):
        HNSW(2, M=1)
