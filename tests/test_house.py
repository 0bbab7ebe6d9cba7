"""The rules of the house: what every project must have and what no file may do. CONTRIBUTING.md says them
in words."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = sorted(path.parent for path in ROOT.glob("phase*/project*/project.json"))
CARDS = {folder: json.loads((folder / "project.json").read_text("utf-8")) for folder in PROJECTS}
BUILT = [folder for folder in PROJECTS if (folder / "README.md").exists()]
# What a project runs, and no other project imports.
SCRIPTS = {"train", "fast", "generate", "evaluate", "bench", "explore", "visualise", "chat", "rate"}
HEADINGS = ["In one sentence", "Builds on", "The idea", "Run it", "See it", "Break it", "Measure it",
            "Your turn", "In production", "Papers"]  # fmt: skip
SOURCES = [p for top in ("common", "data", "tests", "phase*") for p in ROOT.glob(f"{top}/**/*.py")]


@cache
def tree_of(path):
    """A file, parsed once for all rules."""
    return ast.parse(path.read_text("utf-8"))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def technique_files(folder):
    """The files a learner reads as the technique: every module of the folder that is neither a script nor
    private."""
    return [p for p in sorted(folder.glob("*.py")) if p.stem not in SCRIPTS and not p.stem.startswith("_")]


def imports(path):
    """(dotted name, names imported from it or None) for each import statement of a file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, [alias.name for alias in node.names]


def test_there_are_thirty_projects():
    """Thirty, numbered in order; more may follow, as `thirty new 31 NAME` makes them."""
    numbers = [CARDS[folder]["number"] for folder in PROJECTS]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 30


def test_import_contract():
    """The floors, as pyproject.toml states them."""
    pytest.importorskip("importlinter")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda p: p.name)
def test_imports_of_other_projects_are_declared_techniques(folder):
    by_module = {f"{p.parent.name}.{p.name}": CARDS[p]["number"] for p in PROJECTS}
    mine = f"{folder.parent.name}.{folder.name}"
    for path in [*folder.glob("*.py"), *folder.glob("tests/*.py")]:
        for module, names in imports(path):
            parts = (module or "").split(".")
            other = ".".join(parts[:2])
            if other not in by_module or other == mine:
                continue
            assert by_module[other] in CARDS[folder]["builds_on"], (
                f"{name_of(path)} imports {other}, not in builds_on"
            )
            modules = set(parts[2:3]) or set(names or [])
            assert not modules & SCRIPTS, f"{name_of(path)} imports a script of {other}"
            private = [name for name in modules if name.startswith("_") and path.parent == folder]
            assert not private, f"{name_of(path)} imports {private} of {other}, which are its own"


@pytest.mark.parametrize("folder", BUILT, ids=lambda p: p.name)
class TestProject:
    def test_has_its_files(self, folder):
        for name in ("README.md", "__init__.py", "bench.py", "explore.py", "results", "tests"):
            assert (folder / name).exists(), f"{folder.name} has no {name}"
        assert technique_files(folder), f"{folder.name} has no technique file"
        assert list(folder.glob("tests/wrong_*.py")), f"{folder.name} keeps no wrong solutions"
        assert not (folder / "tests" / "__init__.py").exists(), "tests are files, not a package"

    def test_has_its_tests(self, folder):
        text = "\n".join(p.read_text("utf-8") for p in folder.glob("tests/test_*.py"))
        for stem in ("test_matches_", "test_is_on", "test_wrong_solutions_are_caught", "test_smoke"):
            assert f"def {stem}" in text, f"{folder.name} has no {stem}"

    def test_headings_of_the_lesson(self, folder):
        found = re.findall(r"^## (.+)$", (folder / "README.md").read_text("utf-8"), flags=re.M)
        assert found == HEADINGS

    def test_lesson_names_files_that_exist(self, folder):
        text = (folder / "README.md").read_text("utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (folder / target).exists(), (
                f"{folder.name}/README.md links to {target}, which does not exist"
            )
        for target in re.findall(r"`((?:[\w-]+/)*\w+\.(?:py|json|png|gif|toml|md))`", text):
            places = [folder / target, ROOT / target, *folder.glob(f"**/{target}")]
            generated = target in ("result.json", "config.json", "loss.png", "tokenizer.json")
            assert generated or any(p.exists() for p in places), f"{folder.name}/README.md names {target}"

    def test_technique_reads_alone(self, folder):
        for path in technique_files(folder):
            lines = path.read_text("utf-8").count("\n")
            assert 20 <= lines <= 300, f"{name_of(path)} has {lines} lines"
            for module, _ in imports(path):
                top = (module or "").split(".")[0]
                assert top not in {"argparse", "tyro", "matplotlib", "rich", "os", "sys"}, (
                    f"{name_of(path)} imports {top}: a technique file parses, prints and plots nothing"
                )
            calls = {n.func.id for n in ast.walk(tree_of(path))
                     if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
            assert not calls & {"print", "input"}, f"{name_of(path)} prints or asks"

    def test_numbers_in_tables_come_from_results(self, folder):
        """A measured-looking number in a hand-written table must stand in results/ to the digits shown."""
        text = re.sub(r"<!-- results:begin -->.*?<!-- results:end -->", "",
                      (folder / "README.md").read_text("utf-8"), flags=re.S)  # fmt: skip
        known = [
            value
            for path in folder.glob("results/*.json")
            for value in numbers(json.loads(path.read_text("utf-8")))
        ]
        for row in re.findall(r"^\|.*\|$", text, flags=re.M):
            for shown in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\w*\()", row):
                digits = len(shown.partition(".")[2])
                assert any(f"{value:.{digits}f}" == shown for value in known), (
                    f"{folder.name}/README.md: {shown} stands in no file of results/: {row}"
                )


def numbers(tree):
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from numbers(item)
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield float(tree)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_budgets_of_lines(path):
    text = path.read_text("utf-8")
    lines = text.splitlines()
    most = 500 if "tests" in path.parts else 300  # a test file is read a test at a time
    assert len(lines) <= most, f"{len(lines)} lines: probably two things"
    longest = max((len(line) for line in lines), default=0)
    assert longest <= 110, f"a line of {longest} columns"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, (
                f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
            )


def test_the_model_stays_small():
    text = (ROOT / "common" / "model.py").read_text("utf-8")
    assert text.count("\n") <= 220
    conditionals = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.If | ast.IfExp)]
    assert len(conditionals) <= 12, (
        f"{len(conditionals)} conditionals: what is the newest for, and can no seam carry it?"
    )


@pytest.mark.parametrize("path", [p for p in SOURCES if "tests" not in p.parts], ids=name_of)
def test_environment_is_read_in_two_places(path):
    """Settings reach code as arguments; only the command line and the corpora look at the environment."""
    allowed = name_of(path).startswith("common/cli/") or name_of(path) == "data/corpora.py"
    tree = tree_of(path)
    reads = [
        n.lineno
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and n.attr in ("environ", "getenv", "environb")
    ]
    assert allowed or not reads, f"{name_of(path)} reads the environment in lines {reads}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_pickle_is_never_loaded(path):
    found = {module for module, _ in imports(path) if module}
    if "tests" not in path.parts:  # a test makes a poisoned pickle to see it refused
        assert not found & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}, name_of(path)
        text = path.read_text("utf-8")
        assert "torch.load(" not in text, f"{name_of(path)} calls torch.load: weights are safetensors"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_exception_is_swallowed(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            bare = node.type is None
            broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            silent = all(isinstance(n, ast.Pass | ast.Continue) for n in node.body)
            assert not bare and not (broad and silent), (
                f"{name_of(path)}:{node.lineno} swallows every exception"
            )


def test_ruff_is_clean():
    pytest.importorskip("ruff")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_import_of_tests():
    for path in SOURCES:
        for module, _ in imports(path):
            assert "tests" not in (module or "").split("."), f"{name_of(path)} imports {module}"


READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(folder / "README.md" for folder in BUILT)]


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_commands_of_a_readme_are_understood(path):
    """Each ./thirty command of a README names a verb, a project and a preset that exist. Each project's
    test_smoke runs them."""
    from common.cli.__main__ import verbs
    from common.cli.cards import find

    known = set(verbs())
    for line in re.findall(r"\./thirty ([^`\n#]+)", path.read_text("utf-8")):
        words = line.split()
        assert words[0] in known or words[0].startswith("-"), f"{name_of(path)}: ./thirty {line}"
        if (
            words[0] in ("run", "bench", "explore", "profile", "start", "check", "hint", "solution")
            and len(words) > 1
        ):
            assert words[1] in ("N", "31") or find(words[1]), f"{name_of(path)}: ./thirty {line}"
