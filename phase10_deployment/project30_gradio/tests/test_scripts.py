"""The scripts and the lesson: a page that asks itself, experiments, the bench, the proofs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.trial import commands, metrics, model_folder, refused, run, snippets
from phase10_deployment.project28_serving import _server, serve
from phase10_deployment.project30_gradio import bench, chat, explore, stream

FOLDER = Path(stream.__file__).parent
LESSON = FOLDER / "README.md"


@pytest.fixture
def home(home):
    """A place of its own for runs, and a tiny model where the chain would have its own."""
    model_folder(home / "models" / "sft", loud=8, max_seq_len=512, n_layer=1, d_model=16)
    return home


def test_smoke_chat(home, capsys):
    """It starts a server and the page, says two things through it, finds the first turn there, and stops."""
    run(chat, "smoke", "--out", "here")
    said, found = capsys.readouterr().out, metrics(home / "here")
    assert "the page: http://127.0.0.1:" in said and "the course's own code" in said
    assert found["asked"] == 2 and found["cached tokens"] >= 16
    assert (home / "here" / "server.log").is_file()


def test_it_says_whose_code_runs(monkeypatch, tmp_path):
    """Under --mine the files that a learner wrote are named."""
    assert chat.mine() == []
    note = {"laid": {"phase10_deployment/project30_gradio/stream.py": "sha"}}
    (tmp_path / ".shadow.json").write_text(json.dumps(note), "utf-8")
    monkeypatch.setattr(chat.paths, "ROOT", tmp_path)
    assert chat.mine() == ["phase10_deployment/project30_gradio/stream.py"]


def test_smoke_explore(home, capsys):
    """What needs no browser, in small; what must hold holds, and the breaks break."""
    parts = [part for part in explore.EXPERIMENTS if part != "pages"]
    run(explore, "smoke", "--out", "here", "--parts", *parts)
    found = metrics(home / "here")
    assert found["overflow: refused, counted"] == 0 == found["overflow: lost, counted"]
    assert found["overflow: lost, by guess"] > 0
    assert found["injection: inert"] == 0 < found["injection: without <script"] < found["injection: as it is"]
    assert found["injection: str.format leaks"] == 1 and found["injection: filled leaks"] == 0
    assert found["zero: different of 3 at 0.0"] == 1
    assert found["turns: down to 0.6 of the room"] > found["turns: just enough, each turn"]
    assert found["updates: updates at 1000"] < 60
    for name in ("updates", "entropy", "turns", "passages"):
        assert (home / "here" / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


@pytest.mark.slow
@pytest.mark.browser
def test_smoke_pages(home):
    """Screenshots of every tab."""
    pytest.importorskip("playwright")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))):
        pytest.skip("Chromium is not installed")
    run(explore, "smoke", "--out", "here", "--parts", "pages")
    assert metrics(home / "here")["pages: screenshots"] == 9


@pytest.mark.slow
def test_smoke_bench(home):
    """Every claim is made."""
    run_bench(bench.main, None, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert set(claims) == {
        "ttft", "rate", "crowd", "stop", "turns", "recall-visitors", "recall-residents",
        "answers"}  # fmt: skip


def test_bad_input(home, capsys):
    assert "port must lie" in refused(capsys, chat, "smoke", "--port", 99999)
    assert "name one" in refused(capsys, chat, "smoke", "--url", "http://x", "--model", "y")
    assert "no address of a server" in refused(capsys, chat, "smoke", "--url", "x")
    assert "no file" in refused(capsys, chat, "smoke", "--url", "http://127.0.0.1:9", "--key_file", "nowhere")
    assert "no part is called" in refused(capsys, explore, "smoke", "--parts", "film")
    assert "at least 2" in refused(capsys, explore, "smoke", "--turns", 1)


def test_techniques_need_no_torch():
    """What the page is made of, but for project 10's search, runs where there is no torch: a small image."""
    names = "stream", "room", "sampler", "inert", "_client", "_talk", "_draw", "_start", "_alone", "_page"
    code = f"import sys; sys.modules['torch'] = None; sys.path.insert(0, {str(FOLDER.parents[1])!r})\n"
    code += "".join(f"import phase10_deployment.project30_gradio.{name}\n" for name in names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 30 …` and `explore 30 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 5


def test_snippet_of_the_lesson_runs(home):
    """What stands under "In production" is true: a Gradio chat in a dozen lines, before our server."""
    service = _server.served(home / "models" / "sft", serve.PRESETS["smoke"].switches())
    with _server.in_thread(_server.created(service)) as url:
        (space,) = snippets(LESSON, URL=url + "/v1")
        texts = list(space["answer"]("Where does Ilmo live?", []))
    assert texts and texts[-1].startswith(texts[0]) and space["page"].title == "Thirty"


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
