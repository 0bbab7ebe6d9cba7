"""The scripts, the lesson, the long comparison's arithmetic, and the proofs."""

import copy
from pathlib import Path

import pytest
import torch

from common.cli.bench import bench
from common.proofs import prove
from common.testing import trained
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from phase03_core_inference.project08_kv_cache import bench as bench_script
from phase03_core_inference.project08_kv_cache import explore, generate, kv_cache
from phase03_core_inference.project08_kv_cache._long import Interleaved, Run, crossing
from phase03_core_inference.project08_kv_cache._modes import equal_but_ties

LESSON = Path(generate.__file__).parent / "README.md"


@pytest.fixture
def home(home):
    """A place of its own for runs, and a tiny model with large weights, to whom a wrong key matters."""
    model_folder(home / "m", loud=8)
    return home


def test_smoke_generate(home, capsys):
    """Both texts, whether they agree, tokens/s, memory, a picture."""
    run(generate, "smoke", "--model", "m", "--out", "here")
    said = capsys.readouterr().out
    for words in ("--- no cache ---", "--- cache ---", "agree, token for token", "tokens/s", "MB"):
        assert words in said
    assert (home / "here" / "steps.png").read_bytes().startswith(b"\x89PNG")
    assert metrics(home / "here")["agree"] == 1


def test_is_on_in_the_script(home):
    """A cache that raises makes the script fail: it really uses what the learner wrote."""
    with unplugged(kv_cache.KVCache.update):
        run(generate, "smoke", "--model", "m")


def test_smoke_explore(home, capsys):
    """Every experiment in small; what must hold in each of them holds."""
    run(explore, "smoke", "--model", "m", "--out", "here")
    found = metrics(home / "here")
    assert found["edges: refused"] == found["edges: asked"]
    assert found["snippet: none of them"] == found["stale: emptied"] == found["inactive: right"] == 1
    for name in ("stale: not emptied", "positions: one too far", "causal: looks ahead", "snippet: 2 to 5",
                 "snippet: 2 the prompt is never read", "snippet: 4 one cache for all layers"):  # fmt: skip
        assert found[name] < 1, name
    assert found["inactive: tokens fed"] > found["inactive: a cache feeds"]
    assert found["view: hits, no cache"] == 0 < found["view: hits, cache"]
    for name in ("theory", "length", "view", "modes", "groups", "growth", "seven"):
        assert (home / "here" / f"{name}.png").exists(), name


def test_smoke_bench(home, capsys):
    """Every claim is made, the sides agree, and what needs a GPU says so."""
    bench(bench_script.main, argv=["smoke", "--device", "cpu"])
    said = capsys.readouterr().out
    for claim in ("speed", "crossing-10", "crossing-30", "bandwidth", "plain", "dual", "groups", "quality"):
        assert f"\n{claim}: " in said, claim
    assert said.count("needs a CUDA device") == 4


def test_bad_input(home, capsys):
    assert "prompt is empty" in refused(capsys, generate, "smoke", "--prompt", "")
    assert "temperature" in refused(capsys, generate, "smoke", "--temperature", -1)
    assert "context of 64" in refused(capsys, generate, "smoke", "--model", "m", "--prompt", "long " * 30)
    assert "no part is called" in refused(capsys, explore, "smoke", "--parts", "nothing")
    assert "more than the context" in refused(capsys, explore, "smoke", "--prompts", 60)
    assert "at least 1" in refused(capsys, explore, "smoke", "--new", 0)


# ---- the long comparison ----


@pytest.fixture(scope="module")
def counter():
    """Counts on: after 5, 7, 9 comes 11."""
    return trained().float()


def parabola(length):
    return 1.0 + 0.1 * length + 0.01 * length**2


def test_sixteenths_are_integrated():
    """A parabola's points give its whole sum, wherever they begin; a thousandth off where they are noisy."""
    for offset in (0, 5):
        seen = {32 + i: parabola(32 + i) for i in range(offset, 100, 16)}
        without, cached = Run(32, [0.5] * 100, seen).totals()
        assert without == pytest.approx(sum(parabola(32 + i) for i in range(100))) and cached == 50


def test_crossings():
    """The answer of n tokens is 10 times as fast when n · 2 seconds are 10 times n / 5; or it never is."""
    run_of = Run(4, [0.2] * 50, {n: 0.2 * n for n in range(4, 54, 8)})
    sums = [sum(0.2 * (4 + i) for i in range(n)) for n in range(1, 200)]
    want = next(n for n, total in enumerate(sums, 1) if total >= 10 * 0.2 * n)
    assert crossing([run_of], 10) == (want, True)
    at, seen = crossing([run_of], 60)
    assert at == next(n for n, total in enumerate(sums, 1) if total >= 60 * 0.2 * n) and not seen
    assert crossing([Run(4, [1.0] * 50, dict.fromkeys(range(4, 54, 8), 1.0))], 10) == (None, False)


def test_interleaved_steps_are_checked(counter):
    """An uncached step that would choose another token stops the comparison."""
    model, prompt = counter, torch.tensor([[5, 7, 9]])
    chooser = Interleaved(model, prompt, range(0, 6, 2))
    chooser.begin()
    kv_cache.decode(model, prompt, 6, kv_cache.caches_for(model, kv_cache.KVCache, 1, 9), chooser)
    assert len(chooser.cached) == 6 and list(chooser.uncached) == [3, 5, 7]
    with pytest.raises(AssertionError, match="token 0 differs"):
        chooser = Interleaved(model, prompt, [0])
        chooser.begin()
        chooser(torch.eye(32)[20:21], 0)  # after 5, 7, 9 comes 11, and not 20


def test_ties_are_forgiven_and_nothing_else(counter):
    """Two answers may part where two tokens are as good as equally likely, and only there."""
    model, prompt = copy.deepcopy(counter), torch.tensor([[5, 7, 9]])
    right = kv_cache.recompute(model, prompt, 4)
    wrong = right.clone()
    wrong[0, 2] = (wrong[0, 2] + 1) % 32
    assert equal_but_ties(model, prompt, right, right)
    assert not equal_but_ties(model, prompt, right, wrong)
    with torch.no_grad():
        model.head.weight.zero_()  # all tokens tie
    assert equal_but_ties(model, prompt, right, wrong)


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 8 …` and `explore 8 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 6


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    pytest.importorskip("transformers")
    assert len(snippets(LESSON)) == 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
