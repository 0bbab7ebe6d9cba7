"""python-manual: real English that every CPython carries, so that the course runs with no network at all.

Two sources. `pydoc_data.topics` is the language reference as `help()` prints it; the standard library's
docstrings are read from its sources with `ast`, so nothing is imported and nothing runs. What is code, table,
markup or repetition goes; what stays is prose, one paragraph a line. The text is the same for the same
Python and differs a little between versions: numbers to compare with belong to other corpora.
"""

import ast
import hashlib
import inspect
import platform
import re
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

RECIPE = 1  # raise it when the cleaning changes
STAMP = f"{platform.python_implementation().lower()}-{platform.python_version()}-{RECIPE}"
SKIPPED = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages",
           "ensurepip", "__pycache__", "pydoc_data", "this.py"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
TYPOGRAPHY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "•": "-"})
UNDERLINE = re.compile(r"\s*([*=\-~^\"+#_.])\1{2,}\s*")
ITEM = re.compile(r"\s*(?:[-*+o]|\(?\d{1,2}[.)]|\S+\s+--?|[:@]\w+.*?:|[A-Z]\w+:)\s")
MARKUP = (
    (re.compile(r"(?::\w+)+:`~?([^`<]+?)(?:\s*<[^>]*>)?`"), r"\1"),    # :class:`~a.b` -> a.b
    (re.compile(r"``([^`]+)``|`([^`']+)'(?!\w)|`([^`]+)`_{0,2}"), r"\1\2\3"),    # ``code``, `code', `link`_
    (re.compile(r"(?<![\w*])\*{1,2}([^\s*](?:[^*]*[^\s*])?)\*{1,2}(?![\w*])"), r"\1"),    # *word*, **word**
    (re.compile(r"\s*\[\d+\]"), ""),                                   # footnotes
    (re.compile(r"(?<=\w)-\n\s*(?=\w)"), "-"),                         # a compound word cut at its hyphen
    (re.compile(r"\s+"), " "),
    (re.compile(r"^ ?[*+o] "), "- "),
    (re.compile(r"::$"), ":"),
)
NOT_PROSE = re.compile(r">>>|::=|->|==|[{}|\\<>$]| = |\w=|\(self|\.\. |@\w|://|Copyright|XXX|TODO|FIXME"
                       r"|^[:)]|^Args:|^(?:and|or|but|then|with)\b")
WORD = re.compile(r"[\"'(\[]*[A-Za-z]+(?:['/-][A-Za-z]+)*[\])\"'.,;:!?]*")
ENGLISH = re.compile(r"\b(?:the|a|an|of|to|this|that|are|be|by|it|its|which|on|has|have|can|will)\b", re.I)


@cache
def text() -> str:
    """The whole corpus, about 1.3 MB of ASCII: paragraphs apart by one empty line, in a fixed mixed order."""
    return "\n\n".join(documents()) + "\n"


def documents() -> list[str]:
    """One document a manual topic or library module, no paragraph twice, ordered by the hash of the name.

    The order mixes manual and library, so that the last tenth is a fair sample of the whole.
    """
    sources = {**topics_of_the_manual(), **docstrings_of_the_library()}
    seen: set[str] = set()
    kept = {name: "\n\n".join(fresh(paragraphs(parts), seen)) for name, parts in sorted(sources.items())}
    ordered = sorted(kept, key=lambda name: hashlib.sha256(name.encode()).digest())
    return [kept[name] for name in ordered if kept[name]]


def topics_of_the_manual() -> dict[str, list[str]]:
    """The pages of the language reference by name; "!" sorts them first, so that repeats stay here."""
    return {f"!{name}": [page] for name, page in topics.items()}


def docstrings_of_the_library(folder: Path | None = None) -> dict[str, list[str]]:
    """The docstrings of each module, those of its outer parts first; none where the sources are in a zip."""
    folder = Path(folder or sysconfig.get_path("stdlib"))
    return {file.relative_to(folder).as_posix(): list(docstrings(file)) for file in sources(folder)}


def sources(folder: Path) -> Iterator[Path]:
    """The source files below a folder, without those of tests and of anything installed."""
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.name in SKIPPED:
            continue
        if entry.is_dir():
            yield from sources(entry)
        elif entry.suffix == ".py":
            yield entry


def docstrings(file: Path) -> Iterator[str]:
    """Each docstring of a source file; none where it cannot be parsed (a few are broken on purpose)."""
    try:
        blocks = deque([ast.parse(file.read_bytes())])
    except (SyntaxError, ValueError):
        return
    while blocks:  # `ast.walk` would visit every expression too: three times slower
        block = blocks.popleft()
        if isinstance(block, DOCUMENTED) and (doc := ast.get_docstring(block)):
            yield doc
        for field in ("body", "handlers", "orelse", "finalbody"):
            blocks.extend(inner for inner in getattr(block, field, ()) if hasattr(inner, "body"))


def fresh(found: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Those paragraphs whose letters were not seen before, in any case or spacing."""
    for paragraph in found:
        key = re.sub(r"\W+", "", paragraph).lower()
        if key not in seen:
            seen.add(key)
            yield paragraph


def paragraphs(parts: Iterable[str]) -> Iterator[str]:
    """The prose of some pages, one paragraph or list item at a time, on one line each."""
    for part in parts:
        candidates = [tidy(item) for block in blocks(part) for item in items(block)]
        for i, line in enumerate(candidates):
            if line.endswith(":") and not (i + 1 < len(candidates) and is_prose(candidates[i + 1])):
                line = line[: line.rfind(". ") + 1]    # what it leads up to is code: the lead-in goes too
            if is_prose(line):
                yield line if line.rstrip(")\"'")[-1:] in ".:;!?," else line + "."


def blocks(page: str) -> Iterator[list[str]]:
    """The runs of lines between empty lines; headings (a line and its underline) fall away."""
    block: list[str] = []
    for line in [*inspect.cleandoc(page).translate(TYPOGRAPHY).splitlines(), ""]:
        if UNDERLINE.fullmatch(line):
            block = block[:-1]
        elif line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def items(block: list[str]) -> Iterator[str]:
    """A block's paragraphs: a new one begins at a bullet, and where a hanging indent goes back."""
    indents = [len(line) - len(line.lstrip()) for line in block]
    start = 0
    for i in range(1, len(block)):
        if ITEM.match(block[i]) or indents[i] == min(indents) < indents[i - 1]:
            yield "\n".join(block[start:i])
            start = i
    yield "\n".join(block[start:])


def tidy(item: str) -> str:
    """One line without markup; the empty string where three spaces in a row show a table."""
    if any("   " in line.strip() for line in item.splitlines()):
        return ""
    for pattern, plain in MARKUP:
        item = pattern.sub(plain, item)
    return item.strip()


def is_prose(line: str) -> bool:
    """True for a line of at least five words, three quarters of them plain, that does not begin halfway."""
    words = line.split()
    if len(words) < 5 or not line.isascii() or NOT_PROSE.search(line) or not ENGLISH.search(line):
        return False
    return sum(map(bool, map(WORD.fullmatch, words))) >= 0.75 * len(words)
