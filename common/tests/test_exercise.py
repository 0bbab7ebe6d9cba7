"""Stubs and wrong solutions as text, and what a project's folder says about its exercises."""

import ast
import sysconfig
from pathlib import Path

import pytest

from common import lesson, stubs
from common.exercise import exercise

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).parent / "toy" / "phase99_toy" / "project99_toy"
STDLIB = Path(sysconfig.get_path("stdlib"))
# code that nobody here wrote
FILES = [*sorted(STDLIB.glob("*.py"))[::4], *sorted(STDLIB.glob("test/test_*.py"))[::30]]
MARKED = [p for p in sorted(ROOT.glob("phase*/project*/*.py")) if b"\n@exercise" in p.read_bytes()]

SOURCE = '''\
"""Ä module."""

@exercise
def first(x: dict[str, int] = {"a:": 1}, *, key=lambda v: v[1:],   # kept: ünïcode
          last: int = 3) -> "dict[str, int]":  # kept too
    """What first does:

    in two lines."""  # kept as well
    # gone
    y = x

    return y
    # gone with the body

# kept: outside


class Thing:

    # kept: before the method
    @staticmethod
    @exercise
    async def second(
        x,
    ):
        # gone
        return x

    def third(self): return "unmarked"

    if True:
        @exercise
        def fourth(self): return "on one line"

    @exercise
    def fifth(self): "doc"; return 5
'''

STUB = '''\
"""Ä module."""

@exercise
def first(x: dict[str, int] = {"a:": 1}, *, key=lambda v: v[1:],   # kept: ünïcode
          last: int = 3) -> "dict[str, int]":  # kept too
    """What first does:

    in two lines."""  # kept as well
    raise NotImplementedError("write first: ask for first")

# kept: outside


class Thing:

    # kept: before the method
    @staticmethod
    @exercise
    async def second(
        x,
    ):
        raise NotImplementedError("write Thing.second: ask for Thing.second")

    def third(self): return "unmarked"

    if True:
        @exercise
        def fourth(self):
            raise NotImplementedError("write Thing.fourth: ask for Thing.fourth")

    @exercise
    def fifth(self): "doc"; raise NotImplementedError("write Thing.fifth: ask for Thing.fifth")
'''


def test_exercise_returns_what_it_is_given():
    def function():
        return 1

    assert exercise(function) is function


def test_stub_keeps_every_byte_outside_the_bodies():
    """Signatures over several lines, comments, decorators, one-line bodies, letters of several bytes."""
    assert stubs.stub(SOURCE.encode(), "ask for {name}").decode() == STUB


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_stub_keeps_the_line_ends(end):
    source = SOURCE.replace("\n", end).encode()
    assert stubs.stub(source, "ask for {name}") == STUB.replace("\n", end).encode()


def test_stub_of_some_names_only():
    text = stubs.stub(SOURCE.encode(), "x", ["Thing.second"]).decode()
    assert text.count("NotImplementedError") == 1 and "write Thing.second: x" in text and "return y" in text


class Emptied(ast.NodeTransformer):
    """What a stub must be, worked out on the tree by Python's own parser."""

    def visit_FunctionDef(self, node):
        kept = node.body[:1] if ast.get_docstring(node) is not None else []
        node.body = [*kept, ast.parse("raise NotImplementedError()").body[0]]
        return node

    visit_AsyncFunctionDef = visit_FunctionDef


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_cut_equals_the_tree_with_its_bodies_replaced(path):
    """On the standard library: the parser reads our text as the tree that we mean; only body lines went."""
    source = path.read_bytes()
    text = stubs.cut(source, stubs.functions(source), "x")
    meant = ast.dump(Emptied().visit(ast.parse(source)))
    got = ast.parse(text)
    for node in ast.walk(got):
        if isinstance(node, ast.Raise) and "write " in ast.unparse(node):
            node.exc.args = []
    assert ast.dump(got) == meant
    lines = iter(source.splitlines())
    for line in text.splitlines():
        if b"raise NotImplementedError(" not in line:
            assert any(old.startswith(line.rstrip()) for old in lines), f"{line} is not of the file"


@pytest.mark.parametrize("path", MARKED, ids=lambda p: p.stem)
def test_stub_of_every_technique_file(path):
    """It is Python, every exercise of it is a stub, and nothing else changed."""
    source = path.read_bytes()
    text = stubs.stub(source, "x")
    before, after = stubs.functions(source), stubs.functions(text)
    assert [f.name for f in before] == [f.name for f in after]
    assert [f.docstring for f in before] == [f.docstring for f in after]
    kept = [(was, now) for was, now in zip(before, after, strict=True) if not now.marked]
    assert all(f.empty for f in after if f.marked)
    assert all(now.empty == was.empty for was, now in kept), "what is not marked keeps its body"
    assert not any(f.empty for f in before if f.marked), "a reference is no stub"
    for name in stubs.marked(source):
        assert stubs.marked(stubs.stub(source, "x", [name]))[name].empty


@pytest.mark.parametrize("body", ["pass", "...", '"What."', "raise NotImplementedError", '"What."; ...'])
def test_a_function_without_a_body_counts_as_not_written(body):
    assert stubs.functions(f"def f(): {body}".encode())[0].empty


@pytest.mark.parametrize("body", ["return 1", "raise ValueError", "raise", "raise NotImplementedError; 1"])
def test_a_function_with_a_body_counts_as_written(body):
    assert not stubs.functions(f"def f(): {body}".encode())[0].empty


@pytest.mark.parametrize(("source", "why"), [
    ("@exercise\nclass A: pass", "not a class"),
    ("def f():\n    @exercise\n    def g(): pass", "inside a function"),
    ("@exercise\ndef f(): pass\n@exercise\ndef f(): pass", "of one name"),
])  # fmt: skip
def test_marks_that_cannot_be_cut_are_refused(source, why):
    with pytest.raises(ValueError, match=why):
        stubs.marked(source.encode())


def test_lay_puts_one_function_in_the_place_of_another():
    """The decorators above it and everything around it stay."""
    wrong = b'"""Wrong."""\n\n\nclass Thing:\n    async def second(x):\n        return -x'
    text = stubs.lay(SOURCE.encode(), wrong).decode()
    assert text == SOURCE.replace("""    async def second(
        x,
    ):
        # gone
        return x
""", "    async def second(x):\n        return -x\n")


@pytest.mark.parametrize(("wrong", "why"), [
    ("def nobody(): pass", "0 functions named nobody"),
    ("class Thing:\n  def third(self): pass", "indented by 2 spaces, and by 4"),
    ("def first(): pass\ndef second(): pass", "holds one function, this one 2"),
    ("x = 1", "holds one function, this one 0"),
])  # fmt: skip
def test_lay_refuses_what_fits_nowhere(wrong, why):
    with pytest.raises(ValueError, match=why):
        stubs.lay(SOURCE.encode(), wrong.encode())


def test_the_mistake_is_the_first_docstring_line():
    assert stubs.mistake(b'"""Of the file.\n\nMore."""\ndef f():\n    """Of it."""') == "Of the file."
    assert stubs.mistake(b'def f():\n    """\n    Of the function.\n    """') == "Of the function."
    with pytest.raises(ValueError, match="must say the mistake"):
        stubs.mistake(b"def f(): pass")


def test_exercises_of_a_folder():
    """In the order in which the README takes them."""
    assert [(name, path.name) for name, path in lesson.exercises(TOY).items()] == [
        ("running_sum", "toy.py"), ("Counter.add", "toy.py"), ("scaled", "scale.py")]  # fmt: skip


def test_two_exercises_of_one_name_are_refused(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("@exercise\ndef f(): pass\n")
    with pytest.raises(ValueError, match=r"b.py and a.py both mark an exercise f"):
        lesson.exercises(tmp_path)
    (tmp_path / "a.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=r"a\.py: "):
        lesson.exercises(tmp_path)


def test_tests_of_a_folder():
    """Marks of function and class; titles from docstrings or names; slow ones and the proofs left out."""
    place = "phase99_toy/project99_toy/tests/test_toy.py::"
    assert [(t.id.removeprefix(place), t.title, t.judges) for t in lesson.tests(TOY)] == [
        ("test_matches_naive", "The sums are those of the naive version.", ("running_sum",)),
        ("TestCounter::test_counts", "counts", ("Counter.add",)),
        ("TestCounter::test_counts_sums", "Sums can be counted.", ("Counter.add", "running_sum")),
        ("test_scaled", "Twice the numbers.", ("scaled",)),
        ("test_whole", "Everything together.", ()),
    ]


def test_a_mark_of_the_module_holds_for_all_its_tests(tmp_path):
    path = tmp_path / "test_x.py"
    path.write_text("pytestmark = [pytest.mark.browser, pytest.mark.exercise('a', 'b')]\n"
                    "@pytest.mark.exercise('b')\ndef test_one(): pass\n"
                    "async def test_two(): pass\ndef other(): pass")  # fmt: skip
    assert [test.judges for test in lesson.tests_of(path, tmp_path)] == [("a", "b"), ("a", "b")]


def test_wrong_solutions_of_a_folder(tmp_path):
    assert {(w.path.name, w.name, w.mistake) for w in lesson.wrongs(TOY)} == {
        ("wrong_forgets.py", "Counter.add", "Returns the number instead of the total."),
        ("wrong_last_is_missing.py", "running_sum", "Leaves the number itself out of its sum."),
        ("wrong_adds.py", "scaled", "Adds where it should multiply."),
    }
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "wrong_x.py").write_text("x = 1")
    with pytest.raises(ValueError, match=r"wrong_x.py: a wrong solution holds one function"):
        lesson.wrongs(tmp_path)


def test_hints_of_a_readme(tmp_path):
    """In their order, from `Your turn` alone; a folder without a README has none."""
    hints = lesson.hints(TOY)
    assert hints["running_sum"] == [lesson.Hint("Where to start", "Keep **one** total."),
                                    lesson.Hint("And then", "Append it each time.")]  # fmt: skip
    assert {name: len(hints[name]) for name in hints} == {"running_sum": 2, "Counter.add": 2, "scaled": 2}
    assert lesson.hints(tmp_path) == {}
