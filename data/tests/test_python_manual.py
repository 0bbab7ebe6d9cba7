"""The embedded corpus: clean English, the same for the same Python, and nothing imported to get it."""

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data import python_manual
from data.python_manual import docstrings, docstrings_of_the_library, fresh, paragraphs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus():
    """The whole text, built once for this file."""
    return python_manual.text()


CASES = {
    "wrapped lines become one, a full stop ends them": (
        "Return the name of the thing, which\n    is its string",
        ["Return the name of the thing, which is its string."]),
    "headings and their underlines go": (
        "The \"assert\" statement\n**********************\n\nIt is a way to check things.",
        ["It is a way to check things."]),
    "code goes, and the line that leads up to it": (
        "This is what it does. The simple form is equivalent to:\n\n   if __debug__:\n      if not x: raise",
        ["This is what it does."]),
    "doctests go": (
        "A set of the words in it.\n\n>>> words(\"the set of a\")\n{'the', 'set', 'of', 'a'}",
        ["A set of the words in it."]),
    "grammar goes": ("The rule is as it was.\n\n   with_stmt ::= \"with\" with_item \":\" suite of it",
                     ["The rule is as it was."]),
    "roles, literals and emphasis lose their marks": (
        "See :class:`~a.Path` and `the' ``open(x)``: it is *not* a file, and **never** the end.",
        ["See a.Path and the open(x): it is not a file, and never the end."]),
    "stars that are operators stay": (
        "The \"*expression\" syntax may be used after the keyword arguments.",
        ["The \"*expression\" syntax may be used after the keyword arguments."]),
    "list items are paragraphs, and keep their lead-in": (
        "There are two of them to choose from:\n\n* the first one is a string;\n"
        "* the second one is a\n  number.",
        ["There are two of them to choose from:", "- the first one is a string;",
         "- the second one is a number."]),
    "tables go": ("Subwidget       Class of it\n---------       -----\nincr of a       Button of it", []),
    "signatures and parameter lists go": (
        "capwords(s [,sep]) -> string\n\nSplit it into the words.\n\n:param s: the string that is to split",
        ["Split it into the words."]),
    "addresses, notices and other scripts go": (
        "See https://example.org for the rest of it.\n\nCopyright (C) by the makers of this.\n\n"
        "The name of this is Löwis, as it has always been.", []),
    "typography becomes ASCII": ("The object’s “value” – or that of a part of it…",
                                 ["The object's \"value\" - or that of a part of it..."]),
    "a word cut at its hyphen is joined": ("It uses a reference-\ncounting scheme for this.",
                                           ["It uses a reference-counting scheme for this."]),
    "fragments go": ("Internal class.\n\nand a report of the rest is printed.", []),
}


@pytest.mark.parametrize("page, expected", CASES.values(), ids=CASES)
def test_cleaning(page, expected):
    assert list(paragraphs([page])) == expected


def test_repeats_go_whatever_their_case_and_spacing():
    seen = set()
    assert list(fresh(["It is so.", "it is  so", "It is not so."], seen)) == ["It is so.", "It is not so."]
    assert list(fresh(["IT IS SO!"], seen)) == []


def test_it_is_a_megabyte_of_plain_prose(corpus):
    lines = corpus.splitlines()[::2]
    assert corpus.isascii() and 1_000_000 < len(corpus) < 2_500_000
    assert set(corpus.splitlines()[1::2]) == {""} and all(line == line.strip() and line for line in lines)
    assert len(set(lines)) == len(lines) > 8000
    for mark in (">>>", "::=", "``", ":class:", "***", "===", "Copyright", "   "):
        assert mark not in corpus
    assert sum(map(corpus.count, "abcdefghijklmnopqrstuvwxyz ")) > 0.9 * len(corpus)
    assert 70 < len(set(corpus)) < 96
    assert sum(line[-1] in ".:;!?," or line[-2:-1] in ".!?" for line in lines) > 0.999 * len(lines)


def test_the_last_tenth_is_like_the_rest(corpus):
    cut = len(corpus) * 9 // 10
    first, last = Counter(corpus[:cut].split()), Counter(corpus[cut:].split())
    for word in ("the", "a", "of", "is", "Return", "with", "object"):
        assert 0.5 < (last[word] / last.total()) / (first[word] / first.total()) < 2


def test_another_process_builds_the_same_and_imports_nothing_of_it(corpus):
    code = ("import hashlib, sys; from data import python_manual; before = set(sys.modules)\n"
            "text = python_manual.text(); new = sorted(set(sys.modules) - before)\n"
            "print(hashlib.sha256(text.encode()).hexdigest(), 'this' in sys.modules, len(new) < 5)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env={"PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT), "SYSTEMROOT": "C:\\Windows"})
    assert done.stdout.split() == [hashlib.sha256(corpus.encode()).hexdigest(), "False", "True"], done.stderr


def test_without_the_library_s_sources_the_manual_is_left(monkeypatch, tmp_path):
    assert docstrings_of_the_library(tmp_path / "python311.zip") == {}
    monkeypatch.setattr(python_manual.sysconfig, "get_path", lambda name: str(tmp_path / "python311.zip"))
    assert 200_000 < len(python_manual.text.__wrapped__()) < 600_000


def test_sources_are_read_and_not_run(tmp_path):
    (tmp_path / "this.py").write_text('"""The Zen, which prints itself when it is imported."""')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text('"""A test of it."""')
    (tmp_path / "bad.py").write_text('"""It is broken."""\ndef f(:\n')
    (tmp_path / "latin.py").write_bytes(b'# -*- coding: latin-1 -*-\n"""Caf\xe9."""\nraise SystemExit\n')
    (tmp_path / "deep.py").write_text(
        '"""One."""\ntry:\n  class A:\n    """Two."""\n    def f(self):\n      """Three."""\n'
        'except E:\n  def g():\n    """Four."""\nif x:\n  pass\nelse:\n  async def h():\n    """Five."""\n')
    read = docstrings_of_the_library(tmp_path)
    assert set(read.pop("deep.py")) == {"One.", "Two.", "Three.", "Four.", "Five."}
    assert read == {"bad.py": [], "latin.py": ["Café."]}
    assert list(docstrings(tmp_path / "bad.py")) == []
