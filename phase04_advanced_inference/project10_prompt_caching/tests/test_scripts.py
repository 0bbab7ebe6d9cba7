"""The scripts as a user runs them, the traces they replay, what they search, and the lesson."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common import hub
from common.cli.bench import bench
from common.proofs import prove
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from data.tinytown import TinyTown
from phase04_advanced_inference.project10_prompt_caching import (
    _dense,
    _fusion,
    _servers,
    explore,
    generate,
    prefix_cache,
    train,
)
from phase04_advanced_inference.project10_prompt_caching import bench as bench_script
from phase04_advanced_inference.project10_prompt_caching._trace import (
    chats,
    conversations,
    hit_rate,
    optimal_rate,
    paths_of,
)

LESSON = Path(generate.__file__).parent / "README.md"


@pytest.fixture
def home(home):
    """A place of its own for runs, and a tiny model with large weights, to whom a wrong key matters."""
    model_folder(home / "m", loud=8)
    return home


def test_smoke_generate(home, capsys):
    """All answers agree, the later prompts reuse the shared beginning, a picture is drawn."""
    run(generate, "smoke", "--model", "m", "--out", "here")
    found = metrics(home / "here")
    assert found["agree"] == 1 and found["reused"] > 0.4
    assert "the answers agree" in capsys.readouterr().out
    assert (home / "here" / "first_token.png").read_bytes().startswith(b"\x89PNG")


def test_is_on_in_the_script(home):
    """A walk that raises makes the script fail: it really uses what the learner wrote."""
    with unplugged(prefix_cache.PrefixIndex.walk):
        run(generate, "smoke", "--model", "m")


def test_smoke_train(home, capsys):
    """Two updates change the vectors; the table has every rung; the model can be loaded again."""
    run(train, "smoke", "--model", "m", "--out", "here")
    said, found = capsys.readouterr().out, metrics(home / "here")
    for name in ("BM25 alone", "dense alone", "raw sum", "reciprocal ranks", "z-score, learned"):
        assert said.count(name) == 2 and 0 <= found[name] <= 1, name
    assert found["BM25 alone"] > 0.2
    changed = hub.load(home / "here" / "model").embed.weight - hub.load(home / "m").embed.weight
    assert changed.abs().max() > 1e-6


def test_smoke_explore(home):
    """Every experiment in small; what must hold in each of them holds, and what is broken is broken."""
    run(explore, "smoke", "--model", "m", "--out", "here")
    found = metrics(home / "here")
    assert found["rates: tokens, LRU"] <= found["rates: budget"] < found["rates: tokens, LRU, in entries"]
    assert found["chunks: first layer, turned"] < 1e-5 and found["chunks: same, read at once"] == 1
    assert found["hundred: wrong"] == found["hundred: hits"] > 0
    assert found["position: nats, by the whole path"] < 1e-4 < found["position: nats, by its own tokens"]
    assert found["views: nats, copies"] < 1e-4 < found["views: nats, views"]
    assert found["oversized: left, look first"] == 10 and found["oversized: left, room first"] == 0
    assert found["threads: off, the lock"] == 0 < found["threads: off, no lock"]
    assert found["scale: BM25's, raw"] > found["scale: BM25's, z-score"]
    assert found["unseeded: differ, seeded"] == 0 and found["heap: right"] == pytest.approx(1)
    assert found["heap: wrong way round"] < 0.3
    for name in ("rates", "evictions", "tree", "share", "servers", "chunks", "graph", "fusion", "semantic"):
        assert (home / "here" / f"{name}.png").exists(), name


def test_smoke_bench(home, capsys, monkeypatch):
    """Every claim is made, and the sides agree."""
    monkeypatch.setattr(bench_script._bench_search.chain, "find", lambda *a, **k: home / "m")
    bench(bench_script.main, argv=["smoke", "--device", "cpu"])
    said = capsys.readouterr().out
    claims = ("ttft logits bits library miss repeats chunks hot hits servers "
              "recall calls hnswlib first-layer mended words semantic fusion")  # fmt: skip
    for claim in claims.split():
        assert f"\n{claim}: " in said, claim


def test_bad_input(home, capsys):
    assert "none of them empty" in refused(capsys, generate, "smoke", "--questions", "")
    assert "at least 1" in refused(capsys, generate, "smoke", "--max-tokens", 0)
    assert "budget of 2" in refused(capsys, generate, "smoke", "--model", "m", "--budget", 2)
    assert "no part is called" in refused(capsys, explore, "smoke", "--parts", "nothing")
    assert "at least 32" in refused(capsys, explore, "smoke", "--turns", 3)
    assert "at least 1" in refused(capsys, explore, "smoke", "--servers", 0)
    assert "2 to 20" in refused(capsys, train, "smoke", "--model", "m", "--people", 21)
    assert "at least 1" in refused(capsys, train, "smoke", "--each", 0)
    assert "is no folder" in refused(capsys, train, "smoke", "--against", "nowhere")


# ---- traces and servers ----


def test_no_cache_beats_the_future():
    """On a trace the index hits at most as often as Belady's rule, and as often where all fits."""
    turns = conversations(25, seed=1)
    assert turns == conversations(25, seed=1) != conversations(25, seed=2)
    total = sum(map(len, turns))
    for budget in (800, 2000, 5000):
        assert 0 < hit_rate(turns, budget, 16) <= optimal_rate(turns, budget, 16) < 1
    assert hit_rate(turns, total, 16) == optimal_rate(turns, total, 16)


def test_paths_are_told_apart():
    """The same block behind another beginning is another one."""
    assert paths_of([[1, 2, 3, 4], [1, 2, 5, 6, 7], [3, 4]], 2) == [[0, 1], [0, 2], [3]]


def test_chats_go_on():
    """A chat's next prompt begins with its last one."""
    said = {}
    for chat, ids in chats(40, seed=3):
        assert ids[: len(said.get(chat, []))] == said.get(chat, [])
        said[chat] = ids


def test_a_chat_stays_where_it_is():
    """On one server all ways are the trace itself; on several, by chat finds more than in turn."""
    said, big = chats(60, seed=1, users=20), 10**6
    alone = {way: _servers.replay(said, 1, way, budget=big) for way in _servers.WAYS}
    assert len({row["hit rate"] for row in alone.values()}) == 1 and alone["in turn"]["copies"] == 1
    assert alone["in turn"]["hit rate"] == hit_rate([ids for _, ids in said], big, 16)
    many = {way: _servers.replay(said, 8, way, budget=big) for way in _servers.WAYS}
    assert many["by chat"]["hit rate"] > many["in turn"]["hit rate"] + 0.05
    assert many["by chat"]["copies"] < many["in turn"]["copies"]
    assert many["by chat"]["in hand"] <= 1.5, "5 on a server where the mean is 4"


# ---- what is searched ----


def test_questions_have_their_passages():
    """Each question's passage names whom it asks for, of every kind; plain ones are never trained on."""
    town = TinyTown(population=20)
    corpus = _dense.corpus(town, 12)
    assert len(corpus.texts) == 20 * 8 + 12 and {corpus.of(kind).sum() for kind in _dense.KINDS} == {12}
    names = [person.name for person in town.people]
    for kind, question, at in zip(corpus.kinds, corpus.questions, corpus.right, strict=True):
        asked = [name for name in names if name in question]
        assert asked and asked[0] in corpus.texts[at] if kind != "visitor" else not asked
    same = _dense.corpus(town, 12)
    assert same.texts == corpus.texts and same.questions == corpus.questions


def test_fusion_scores():
    """A side that knows everything is found by every fair way; learned weights come from the other half."""
    corpus = _dense.Corpus(["a b", "c d", "e f", "g h"], ["a", "c", "e", "g"],
                           np.array(["plain", "plain", "rephrased", "visitor"]), np.arange(4))  # fmt: skip
    table = dict(zip([*corpus.texts, *corpus.questions], np.tile(np.eye(4), (2, 1)), strict=True))
    sides = _fusion.Sides(corpus, lambda texts: np.stack([table[text] for text in texts]))
    assert {tuple(places) for places in sides.ladder().values()} == {(1, 1, 1, 1)}
    mean, low, high = _fusion.interval(np.array([1.0, 0.0] * 50))
    assert mean == 0.5 and 0.38 < low < 0.45 and 0.55 < high < 0.62


def test_a_stream_is_judged_by_meaning():
    """With a vector for each meaning, the semantic cache hits whatever was asked before, never wrongly."""
    asked = _fusion.stream(TinyTown(population=20), 60)
    meanings = sorted({meaning for _, meaning in asked})
    eye = np.eye(len(meanings), dtype=np.float32)
    vectors = np.stack([eye[meanings.index(meaning)] for _, meaning in asked])
    report = _fusion.semantic(asked, vectors, 0.9)
    assert report == {"hit_rate": pytest.approx(1 - len(meanings) / 60), "false_hit_rate": 0.0}
    blind = _fusion.semantic(asked, np.ones_like(vectors), 0.9)
    assert blind["hit_rate"] == 59 / 60 and blind["false_hit_rate"] > 0.5


def test_matches_an_encoder_of_transformers(tmp_path):
    """Vectors of a foreign folder are the mean over its tokens, padding left out, at length 1."""
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "mara", "sells", "bread"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    bert = transformers.BertTokenizer(vocab=dict(zip(words, range(8), strict=True)))
    config = transformers.BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=16)  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path)
    bert.save_pretrained(tmp_path)
    found = _dense.foreign(str(tmp_path), ["mara", "mara sells bread"])
    with torch.no_grad():
        for text, vector in zip(("mara", "mara sells bread"), found, strict=True):
            mean = model(**bert(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            assert np.allclose(vector, mean / mean.norm(), atol=1e-5)


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 10 …` and `explore 10 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 7


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    pytest.importorskip("transformers")
    assert len(snippets(LESSON)) == 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
