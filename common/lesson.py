"""What a project's folder says about its exercises, read from the files without running any of them.

- An exercise is a function or method marked `@exercise` in a technique file: `attend`, `Attention.forward`.
- A test judges it that carries `@pytest.mark.exercise("attend")`, on the function, its class, or the module's
  `pytestmark`. Nothing is imported, so a learner's file cannot change which tests are expected of it.
- A wrong solution is `tests/wrong_….py` with that one function in it; its first docstring line says the
mistake. - Hints stand in the README under `## Your turn`: a `###` heading with the exercise's name in
backticks, then
  `<details><summary>…</summary> … </details>` blocks, least help first.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common import stubs

PROOFS = "test_wrong_solutions_are_caught"  # runs the proofs of `common/proofs.py`; never part of a check
LEFT_OUT = {"slow", "gpu"}  # what the default suite leaves out


@dataclass(frozen=True)
class Test:
    """A test function. `id` is pytest's, path from the root first; `judges`: the exercises it is for."""

    __test__ = False  # not for pytest to collect

    id: str
    title: str
    judges: tuple[str, ...]


@dataclass(frozen=True)
class Wrong:
    """A wrong solution: its file, the function it replaces, and what is wrong about it."""

    path: Path
    name: str
    mistake: str


@dataclass(frozen=True)
class Hint:
    """One folded block: its summary line and its text."""

    title: str
    text: str


def exercises(folder: Path) -> dict[str, Path]:
    """The technique file of each exercise, in the README's order; ValueError where two share a name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.py")):
        for name in marked_in(path):
            if name in found:
                raise ValueError(f"{path.name} and {found[name].name} both mark an exercise {name}")
            found[name] = path
    order = {name: place for place, name in enumerate(hints(folder))}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def marked_in(path: Path) -> list[str]:
    """The names that a file marks; ValueError with its name where it does not parse."""
    try:
        return list(stubs.marked(path.read_bytes()))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def tests(folder: Path) -> list[Test]:
    """The project's tests that run by default, those of exercises first; the proofs themselves left out."""
    found = [
        test
        for path in sorted((folder / "tests").glob("test_*.py"))
        for test in tests_of(path, folder.parents[1])
    ]
    return sorted(found, key=lambda test: not test.judges)


def tests_of(path: Path, root: Path) -> Iterator[Test]:
    """The tests of one file."""
    tree = ast.parse(path.read_bytes())
    module = [m for node in tree.body if is_pytestmark(node) for m in marks(node.value)]
    place = path.relative_to(root).as_posix()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            own = module + [m for d in node.decorator_list for m in marks(d)]
            for inner in node.body:
                yield from test_of(inner, f"{place}::{node.name}", own)
        yield from test_of(node, place, module)


def test_of(node: ast.stmt, place: str, outer: list[tuple[str, tuple[str, ...]]]) -> Iterator[Test]:
    """The test that a statement defines, if it does and the default suite runs it."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test"):
        return
    found = outer + [m for d in node.decorator_list for m in marks(d)]
    if node.name != PROOFS and not LEFT_OUT & {name for name, _ in found}:
        title = (
            (ast.get_docstring(node) or node.name.removeprefix("test_").replace("_", " "))
            .strip()
            .splitlines()[0]
        )
        judges = [exercise for name, values in found if name == "exercise" for exercise in values]
        yield Test(f"{place}::{node.name}", title, tuple(dict.fromkeys(judges)))


test_of.__test__ = tests_of.__test__ = tests.__test__ = False


def is_pytestmark(node: ast.stmt) -> bool:
    """`pytestmark = …`"""
    return isinstance(node, ast.Assign) and any(
        getattr(target, "id", "") == "pytestmark" for target in node.targets
    )


def marks(node: ast.expr) -> list[tuple[str, tuple[str, ...]]]:
    """(name, string arguments) of `pytest.mark.name("…")` or `pytest.mark.name`, or of each in a list."""
    if isinstance(node, ast.List | ast.Tuple):
        return [mark for item in node.elts for mark in marks(item)]
    arguments = node.args if isinstance(node, ast.Call) else []
    mark = node.func if isinstance(node, ast.Call) else node
    if not (isinstance(mark, ast.Attribute) and getattr(mark.value, "attr", "") == "mark"):
        return []
    return [(mark.attr, tuple(a.value for a in arguments if isinstance(getattr(a, "value", None), str)))]


def wrongs(folder: Path) -> list[Wrong]:
    """The wrong solutions of a project; ValueError with the file's name where one is not what it must be."""
    found = []
    for path in sorted((folder / "tests").glob("wrong_*.py")):
        try:
            source = path.read_bytes()
            found.append(Wrong(path, stubs.the_function(source).name, stubs.mistake(source)))
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{path.name}: {error}") from None
    return found


def hints(folder: Path) -> dict[str, list[Hint]]:
    """The hints of each exercise that the README's `Your turn` names, least help first."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    turn = re.search(r"^## Your turn[ \t]*\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    found: dict[str, list[Hint]] = {}
    for part in re.split(r"^### ", turn[1] if turn else "", flags=re.M)[1:]:
        heading, _, below = part.partition("\n")
        blocks = re.findall(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", below, flags=re.S)
        for name in re.findall(r"`([\w.]+)`", heading):
            found[name] = [Hint(" ".join(title.split()), body.strip()) for title, body in blocks]
    return found
