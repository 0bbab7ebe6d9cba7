"""Three proofs for every exercise: the stub fails, the reference passes, each wrong solution fails.

The worst that a grader can do is to pass without having run the learner's code. A project inherits the proofs
by

    def test_wrong_solutions_are_caught():
        prove(__file__)

Each runs on the tests marked for that exercise alone, in a shadow tree, in a child of its own: of a process
that has collected the tests (`common/together.py`), and where that does not prove it, anew from its files
(`common/nursery.py`). A failure counts only where a test ran and failed: a wrong solution with a name that is
not defined proves nothing.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from common import judge, lesson, shadow, stubs
from common.cli import launch
from common.recorder import function_of

SECONDS = (
    30.0  # for one proof; the reference gets four times as many, because it runs the tests of all exercises
)
METHOD = "fork" if sys.platform == "linux" else "spawn"  # macOS forks, but its libraries do not survive it
# No plugins: hypothesis's alone takes a second to load in each child.
ENVIRONMENT = {**judge.ENVIRONMENT, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
# What may stand above a function whose code is exchanged for another's; triton.jit, say, reads the file.
PLAIN = {"exercise", "no_grad", "inference_mode", "staticmethod", "classmethod", "property"}
NOT_A_CATCH = {"NameError", "ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError"}


@dataclass(frozen=True)
class Proof:
    """Tests to run with `source` laid at `place` (None: the reference as it is), and which `must`: pass, or
    fail.

    `must`: "pass" (all of them), "fail" (all of them), "catch" (one of them fails). `name`: the function in
    which `source` differs from the reference.
    """

    title: str
    must: str
    tests: tuple[str, ...]
    place: str | None = None
    source: bytes = b""
    name: str = ""


@dataclass
class Outcome:
    """What a proof's child reported. `failures`: test -> (kind, message); `log`: how its output ended."""

    passed: set[str] = field(default_factory=set)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    finished: bool = False
    log: str = ""


def prove(test_file: str | Path) -> None:
    """The proofs for every exercise of this test file's project; AssertionError names each that fails."""
    folder = Path(test_file).resolve().parents[1]
    root, number = folder.parents[1], int(folder.name[7:9])
    exercises, wrongs, tests = lesson.exercises(folder), lesson.wrongs(folder), lesson.tests(folder)
    assert exercises, f"{folder.name} marks no exercise"
    problems = missing(folder, exercises, wrongs, tests)
    marked = {name: tuple(test.id for test in tests if name in test.judges) for name in exercises}
    place = {name: path.relative_to(root).as_posix() for name, path in exercises.items()}
    proofs = [
        Proof("the reference", "pass", tuple(dict.fromkeys(id for ids in marked.values() for id in ids)))
    ]
    for name, path in exercises.items():
        cut = stubs.stub(path.read_bytes(), f"./thirty hint {number} {{name}}", [name])
        proofs.append(Proof(f"the stub of {name}", "fail", marked[name], place[name], cut, name))
    for wrong in wrongs:
        if wrong.name in exercises:
            source = stubs.lay(exercises[wrong.name].read_bytes(), wrong.path.read_bytes())
            title = f"{wrong.path.name} ({wrong.mistake})"
            judges, at = marked[wrong.name], place[wrong.name]
            proofs.append(Proof(title, "catch", judges, at, source, wrong.name))
    problems += [f"{proof.title}: {why}" for proof, why in run(root, [p for p in proofs if p.tests])]
    assert not problems, f"{folder.name}: {len(problems)} proofs fail:\n" + "\n".join(problems)


def missing(
    folder: Path, exercises: Iterable[str], wrongs: list[lesson.Wrong], tests: list[lesson.Test]
) -> list[str]:
    """What an exercise lacks, and what names an exercise that is not there."""
    hints, judged = lesson.hints(folder), {name for test in tests for name in test.judges}
    caught = {wrong.name for wrong in wrongs}
    problems = [f"{name}: no test is marked for it" for name in exercises if name not in judged]
    problems += [f"{name}: no wrong solution" for name in exercises if name not in caught]
    problems += [
        f"{name}: fewer than two hints in the README" for name in exercises if len(hints.get(name, [])) < 2
    ]
    for kind, names in (
        ("a test is marked for", judged),
        ("a wrong solution replaces", caught),
        ("a hint is for", hints),
    ):
        problems += [f"{kind} {name}, which is no exercise" for name in sorted(set(names) - set(exercises))]
    return problems


def prove_wrong(place: str | Path, wrongs: Iterable[Path], tests: Iterable[str], root: Path) -> None:
    """The tests (ids from the root, or whole files) pass on the file at `place`; each wrong version of it
    fails one.

    For functions that are no exercise: what must never break unseen in `common`. AssertionError names what
    passes.
    """
    place, tests = Path(place).as_posix(), tuple(tests)
    reference = (root / place).read_bytes()
    proofs = [Proof("the reference", "pass", tests)]
    for path in wrongs:
        wrong = path.read_bytes()
        title, name = f"{path.name} ({stubs.mistake(wrong)})", stubs.the_function(wrong).name
        proofs.append(Proof(title, "catch", tests, place, stubs.lay(reference, wrong), name))
    problems = [f"{proof.title}: {why}" for proof, why in run(root, proofs)]
    assert len(proofs) > 1, "there is no wrong solution"
    assert not problems, f"{place}: {len(problems)} proofs fail:\n" + "\n".join(problems)


def run(root: Path, proofs: list[Proof]) -> list[tuple[Proof, str]]:
    """Those that do not hold, and why: tried together where there is a safe fork, and then each by itself."""
    left = [proof for proof, _ in attempt(root, proofs, "together")] if METHOD == "fork" else proofs
    return attempt(root, left, "nursery") if left else []


def attempt(root: Path, proofs: list[Proof], way: str) -> list[tuple[Proof, str]]:
    """The proofs in children of one process, that of `common/together.py` or `common/nursery.py`; those that
    do not hold there, and why."""
    with ExitStack() as stack, TemporaryDirectory(prefix="thirty-") as at:
        one, *more = [stack.enter_context(shadow.tree(root)) for _ in range(1 + (way == "nursery"))]
        jobs = [job(proof, Path(at) / str(i)) for i, proof in enumerate(proofs)]
        plan = {"method": METHOD, "roots": [str(one), *map(str, more)], "jobs": jobs,
                "imports": libraries(root, proofs), **cuts(root, proofs, Path(at))}  # fmt: skip
        (Path(at) / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        command = [sys.executable, "-c", launch.BOOT, str(one), f"common.{way}", f"{at}/plan.json"]
        env = launch.environment(one, ENVIRONMENT)
        done = subprocess.run(command, cwd=one, env=env, stdin=subprocess.DEVNULL, capture_output=True,
                              encoding="utf-8", errors="replace")  # fmt: skip
        assert done.returncode == 0, f"the proofs could not run:\n{done.stderr[-2000:]}"
        outcomes = [outcome(Path(at) / str(i)) for i in range(len(proofs))]
    verdicts = map(verdict, proofs, outcomes)
    return [(proof, why) for proof, why in zip(proofs, verdicts, strict=True) if why]


def cuts(root: Path, proofs: list[Proof], at: Path) -> dict[str, dict]:
    """The functions that can be exchanged, by file; and those files without their bodies, in `at`."""
    names: dict[str, list[str]] = {}
    for place, name in dict.fromkeys((proof.place, proof.name) for proof in proofs if proof.place):
        if plain((root / place).read_bytes(), name):
            names.setdefault(place, []).append(name)
    cut = {}
    for number, (place, chosen) in enumerate(names.items()):
        source, path = (root / place).read_bytes(), at / f"cut{number}.py"
        bodies = [function for function in stubs.functions(source) if function.name in chosen]
        path.write_bytes(stubs.cut(source, bodies, "cut"))
        cut[place] = str(path)
    return {"names": names, "cut": cut}


def plain(source: bytes, name: str) -> bool:
    """Nothing above a function that would keep its code for itself."""
    node = next(node for found, node in stubs.named(ast.parse(source), "") if found == name)
    above = (getattr(d, "func", d) for d in node.decorator_list)
    return all(getattr(d, "attr", getattr(d, "id", "")) in PLAIN for d in above)


def job(proof: Proof, folder: Path) -> dict:
    """A proof as the nursery reads it, its files in `folder`."""
    folder.mkdir()
    (folder / "source.py").write_bytes(proof.source)
    (folder / "report.jsonl").touch()
    return {
        "lay": {proof.place: str(folder / "source.py")} if proof.place else {},
        "name": proof.name, "tests": proof.tests,
        "report": str(folder / "report.jsonl"), "log": str(folder / "log.txt"),
        "seconds": 4 * SECONDS if proof.must == "pass" else SECONDS,
        "options": ["--tb=line", *(["-x"] if proof.must == "catch" else [])],
    }  # fmt: skip


def outcome(folder: Path) -> Outcome:
    """What a child left behind."""
    result = Outcome(
        log=(folder / "log.txt").read_text(errors="replace")[-1500:] if (folder / "log.txt").exists() else ""
    )
    for line in (folder / "report.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "finished":
            result.finished = event["status"] in (0, 1)
        elif event["event"] == "broken":
            result.failures[event["path"]] = ("ImportError", event["message"])
        elif event["event"] == "end" and event["outcome"] == "passed":
            result.passed.add(function_of(event["test"]))
        elif event["event"] == "end" and event["outcome"] == "failed":
            result.failures[event["test"]] = (event["kind"], event["message"])
    return result


def verdict(proof: Proof, result: Outcome) -> str:
    """Why a proof does not hold; empty where it does."""
    names = ", ".join(test.rpartition("::")[2] for test in proof.tests)
    if not result.finished:
        return f"its tests ({names}) did not come to an end; the log ends:\n{result.log}"
    if proof.must == "pass":
        never = [test for test in proof.tests if "::" in test and test not in result.passed]
        problems = [f"{test}: {message}" for test, (_, message) in result.failures.items()]
        return "; ".join(problems or [f"{test} never passed" for test in never])
    if not result.failures:
        return f"passes all its tests ({names})"
    if blind := [kind for kind, _ in result.failures.values() if kind in NOT_A_CATCH]:
        return f"fails by {blind[0]}, which proves nothing ({names})"
    green = {test for test in proof.tests if "::" in test} - {function_of(test) for test in result.failures}
    judges = proof.must == "catch" or not green
    return "" if judges else f"{', '.join(sorted(green))} passes on it, so it does not judge it"


def libraries(root: Path, proofs: list[Proof]) -> list[tuple[str, list[str]]]:
    """What the nursery imports for all: (module, names taken from it) at the top of tests and sources.

    Nothing of the folder in which a proof lays a file: each child must import that for itself.
    """
    laid = {proof.place.partition("/")[0] for proof in proofs if proof.place}
    files = {proof.place for proof in proofs if proof.place}
    files |= {test.partition("::")[0] for proof in proofs for test in proof.tests}
    found: list[tuple[str, list[str]]] = []
    for path in (root / name for name in sorted(files)):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.Import):
                found += [(alias.name, []) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.append((node.module, [alias.name for alias in node.names]))
    if any(module.partition(".")[0] == "torch" for module, _ in found):
        found.append(("torch.distributed.tensor", []))  # torch.testing's assert_close imports it, in 0.8 s
    return [(module, names) for module, names in found if module.partition(".")[0] not in laid]
