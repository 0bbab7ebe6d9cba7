"""The three proofs hold on the toy, and each way in which they can fail is seen."""

import json
from pathlib import Path

import pytest

from common import nursery, proofs
from common.cli import launch


@pytest.fixture
def toy(toys):
    """The folder of a project with three exercises."""
    return toys / "phase99_toy/project99_toy"


def edit(path, *pairs):
    text = path.read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def failing(toy):
    """What `prove` says, a line each."""
    with pytest.raises(AssertionError) as error:
        proofs.prove(toy / "tests/test_toy.py")
    return str(error.value).splitlines()


def starting(said, words):
    return [line for line in said if line.startswith(words)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_proofs_hold(toy, monkeypatch, method):
    if method == "fork" and proofs.METHOD == "spawn":
        pytest.skip("there is no safe fork here")
    monkeypatch.setattr(proofs, "METHOD", method)
    before = {path: path.read_bytes() for path in toy.rglob("*.py")}
    proofs.prove(toy / "tests/test_toy.py")
    assert before == {path: path.read_bytes() for path in toy.rglob("*.py")}


def tried_together(toy, monkeypatch):
    """The titles of the proofs that do not hold in children of one process."""
    tried, attempt = {}, proofs.attempt

    def watched(root, left, way):
        tried[way] = attempt(root, left, way)
        return tried[way]

    with monkeypatch.context() as patch:
        patch.setattr(proofs, "attempt", watched)
        proofs.prove(toy / "tests/test_toy.py")
    return [proof.title for proof, _ in tried["together"]]


def test_proofs_hold_together(toy, monkeypatch):
    """Nothing of the toy is left to be proved by itself, a method with super() included."""
    if proofs.METHOD == "spawn":
        pytest.skip("there is no safe fork here")
    assert tried_together(toy, monkeypatch) == []
    edit(toy / "toy.py", ("class Counter:", "class Base:\n    step = 1\n\n\nclass Counter(Base):"),
         ("self.seen += number", "self.seen += number * super().step"))  # fmt: skip
    assert tried_together(toy, monkeypatch) == []


def test_what_cannot_be_exchanged_is_proved_by_itself(toy, monkeypatch):
    """A function that somebody keeps the code of; a wrong solution with another signature."""
    if proofs.METHOD == "spawn":
        pytest.skip("there is no safe fork here")
    keeps = "def kept(f):\n    return type(f)(f.__code__, globals())\n\n\n"
    edit(toy / "scale.py", ("@exercise", f"{keeps}@kept\n@exercise"))
    edit(toy / "tests/wrong_forgets.py", ("self, number", "self, number=0"))
    assert [title.partition(" (")[0] for title in tried_together(toy, monkeypatch)] == [
        "the stub of scaled", "wrong_adds.py", "wrong_forgets.py"]  # fmt: skip


def test_what_was_computed_while_importing_catches_nobody(toy):
    """A test that compares with what the reference said would compare a learner's answer with itself."""
    edit(toy / "tests/test_toy.py",
         ("== [2, 4]", "== KNOWN"),
         ("import prove\n", "import prove\n\nKNOWN = scaled([1, 2], 2)\n"))  # fmt: skip
    assert starting(failing(toy), "wrong_adds.py (Adds where it should multiply.): passes all its tests")


def test_what_an_exercise_lacks_is_named(toy):
    """A mark, a wrong solution, a hint; and marks, solutions and hints for what is no exercise."""
    edit(toy / "tests/test_toy.py", ('("scaled")\ndef test_scaled(', '("scald")\ndef test_scaled('))
    edit(toy / "tests/wrong_adds.py", ("def scaled", "def skaled"))
    edit(toy / "README.md", ("### `scaled`", "### `scalded`"))
    assert failing(toy)[1:] == [
        "scaled: no test is marked for it",
        "scaled: no wrong solution",
        "scaled: fewer than two hints in the README",
        "a test is marked for scald, which is no exercise",
        "a wrong solution replaces skaled, which is no exercise",
        "a hint is for scalded, which is no exercise",
    ]


def test_a_proof_that_fails_is_named(toy, monkeypatch):
    """Tests that judge nothing, wrong solutions that are right or fail for a reason that proves nothing."""
    monkeypatch.setattr(proofs, "SECONDS", 3.0)
    edit(toy / "tests/test_toy.py",
         ("assert scaled([1, 2], by=2) == [2, 4]", "assert [2, 4]"),
         ("running_sum([1, 2])[-1]", "3"))  # fmt: skip
    bodies = {"unnamed": "return nothing", "right": "return naive(numbers)", "endless": "while True: pass"}
    for name, body in {**bodies, "exit": "import os; os._exit(0)"}.items():
        source = f'"""The {name} one."""\ndef running_sum(numbers):\n    {body}\n'
        (toy / f"tests/wrong_{name}.py").write_text(source)
    said = failing(toy)
    assert said[0] == "project99_toy: 7 proofs fail:"
    assert "the stub of scaled: passes all its tests (test_scaled)" in said
    assert "wrong_adds.py (Adds where it should multiply.): passes all its tests (test_scaled)" in said
    assert starting(said, "wrong_right.py (The right one.): passes all its tests (test_matches_naive, ")
    green = "phase99_toy/project99_toy/tests/test_toy.py::TestCounter::test_counts_sums"
    assert f"the stub of running_sum: {green} passes on it, so it does not judge it" in said
    assert starting(said, "wrong_unnamed.py (The unnamed one.): fails by NameError, which proves")
    for name in ("endless", "exit"):
        assert starting(said, f"wrong_{name}.py (The {name} one.): its tests (test_matches_naive, ")


def test_a_reference_that_fails_is_named(toy):
    edit(toy / "scale.py", ("number * by", "number * by + 1"))
    said = failing(toy)
    assert "test_scaled: assert [3, 5]" in starting(said, "the reference: ")[0]


def test_a_file_that_cannot_be_imported_proves_nothing(toy):
    """Not the reference, and not the stub either, which fails alike."""
    edit(toy / "scale.py", ('"""\n\nfrom', '"""\n\nimport nothing_of_that_name\n\nfrom'))
    said = failing(toy)
    assert "nothing_of_that_name" in starting(said, "the reference: ")[0]
    assert "the stub of scaled: fails by ImportError, which proves nothing (test_scaled)" in said


def test_a_project_without_exercises_has_nothing_to_prove(toy):
    edit(toy / "scale.py", ("@exercise\n", ""))
    edit(toy / "toy.py", ("    @exercise\n", ""), ("@exercise\n", ""))
    with pytest.raises(AssertionError, match="project99_toy marks no exercise"):
        proofs.prove(toy / "tests/test_toy.py")


def test_what_is_no_exercise_is_proved_by_its_tests(toy, toys):
    """For the core: whole test files, functions without a mark."""
    wrong = toy / "tests/wrong_naive.py"
    wrong.write_text('"""Sums nothing."""\ndef naive(numbers):\n    return numbers\n')
    place, tests = "phase99_toy/project99_toy/toy.py", ["phase99_toy/project99_toy/tests/test_toy.py"]
    edit(toy / "tests/test_toy.py", ("    prove(__file__)", "    pass"))
    proofs.prove_wrong(place, [wrong], tests, toys)
    wrong.write_text('"""Sums by hand."""\ndef naive(numbers):\n    return running_sum(numbers)\n')
    with pytest.raises(AssertionError, match=r"wrong_naive.py \(Sums by hand.\): passes all its tests"):
        proofs.prove_wrong(place, [wrong], tests, toys)
    with pytest.raises(AssertionError, match="there is no wrong solution"):
        proofs.prove_wrong(place, [], tests, toys)


def test_a_wrong_version_of_common_is_the_one_that_is_imported(toy, toys):
    """The nursery itself has imported `common`, from one of its two trees; the proofs run in both."""
    (toys / "common/extra.py").write_text("def one():\n    return 1\n")
    (toys / "tests").mkdir()
    (toys / "tests/test_extra.py").write_text(
        "from common.extra import one\n\ndef test_one():\n    assert one() == 1\n"
    )
    wrongs = [toys / f"wrong_{i}.py" for i in range(3)]
    for i, wrong in enumerate(wrongs):
        wrong.write_text(f'"""Gives {i + 2}."""\ndef one():\n    return {i + 2}\n')
    proofs.prove_wrong("common/extra.py", wrongs, ["tests/test_extra.py"], toys)


def test_nursery_imports_what_the_tests_need_and_nothing_that_is_replaced(toy, toys):
    """Torch with the part that assert_close needs; a module that is not there is left to its test."""
    edit(toy / "tests/test_toy.py", ("import pytest\n", "import torch\nfrom json import loads\n"))
    at = "phase99_toy/project99_toy"
    proof = proofs.Proof("p", "catch", (f"{at}/tests/test_toy.py::x",), f"{at}/toy.py")
    found = proofs.libraries(toys, [proof])
    want = [("torch", []), ("torch.distributed.tensor", []), ("json", ["loads"])]
    assert all(library in found for library in want)
    assert not [module for module, _ in found if module.startswith("phase99_toy")]
    nursery.preload("nothing_of_that_name", ["x"])
    nursery.preload("json", ["loads", "nothing"])


def test_nursery_that_cannot_start_is_an_error(toy, monkeypatch):
    monkeypatch.setattr(launch, "BOOT", "raise SystemExit('no start')")
    with pytest.raises(AssertionError, match="the proofs could not run:\nno start"):
        proofs.prove(toy / "tests/test_toy.py")


def test_laid_files_are_taken_away_again(tmp_path, monkeypatch):
    """Also where the proof in between raises."""
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_bytes(b"ours")
    Path("b.py").write_bytes(b"other")
    with pytest.raises(RuntimeError), nursery.laid({"a.py": "b.py"}):
        assert Path("a.py").read_bytes() == b"other"
        raise RuntimeError
    assert Path("a.py").read_bytes() == b"ours"


def test_outcome_of_a_child_that_wrote_nothing(tmp_path):
    (tmp_path / "report.jsonl").write_text(json.dumps({"event": "collected", "tests": []}) + "\n")
    assert proofs.outcome(tmp_path) == proofs.Outcome()
