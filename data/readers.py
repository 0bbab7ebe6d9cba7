"""Text out of a folder of mixed files: one reader a format, chosen by content and then by suffix.

Everything is lazy: a file is opened when its turn comes, and long ones come in pieces of about a million
characters. What cannot be read is named in one line, and skipped or refused.

A new format is one more `Reader`, passed in front of ours: `read_folder(path, readers=(mine, *READERS))`.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from common.errors import UserError

PIECE = 1 << 20  # characters
LINE = 1 << 24  # characters: a longer line of JSON Lines is refused
IN_MEMORY = 1 << 26  # bytes: a larger file of a format that is held whole is refused
HEAD = 4096  # bytes that tell what a file is
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # its marks


@dataclass(frozen=True)
class Document:
    """A file's text, or a piece of it if it is long, or one row of it if it is rows."""

    text: str
    path: Path
    kind: str


@dataclass(frozen=True)
class Reader:
    """How one format is recognised and read."""

    kind: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], Iterable[str]]
    """Yields the texts of a file; raises Unreadable."""
    starts: tuple[bytes, ...] = ()
    """What such a file begins with, in lower case: this counts before any suffix."""
    limit: int | None = None
    """Largest file in bytes; None where the format is read in pieces."""
    binary: bool = False


class Unreadable(Exception):
    """Why a file gives no text, in a few words."""


class Missing(Unreadable):
    """A whole format cannot be read here: this is said once, not once a file."""


def read_folder(path: Path, *, say: Callable[[str], None] = print, on_error: str = "skip",
                readers: tuple[Reader, ...] = ()) -> Iterator[Document]:
    """Every text below a folder (or of one file), in the order of the paths; hidden files are left out.

    `on_error`: "skip" says a line for each file without text and goes on, "refuse" makes it a UserError.
    Nothing readable at all is always a UserError. `readers`: first match wins; () stands for READERS.
    """
    if on_error not in ("skip", "refuse"):
        raise ValueError(f'on_error is "skip" or "refuse", not {on_error!r}')
    found, said = False, set()
    for file in files(Path(path)):
        try:
            for document in read_file(file, readers or READERS):
                found = True
                yield document
        except Unreadable as why:
            line = str(why) if isinstance(why, Missing) else f"{file}: {why}"
            if on_error == "refuse":
                raise UserError(f"{line}; mend or remove {file.name}, or let such files be skipped") from why
            if line not in said:
                say(f"skipped {line}")
                said.add(line)
    if not found:
        raise UserError(f"no file in {path} has readable text: give text, Markdown, HTML, code, JSON or PDF")


def files(path: Path) -> Iterator[Path]:
    """The files below a folder, sorted; links to folders are not followed, so there are no circles."""
    if path.is_file():
        yield path
    elif not path.is_dir():
        raise UserError(f"there is no file or folder {path}: check the path")
    for folder, below, names in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and (file.is_file() or not file.exists()):  # a dead link is named
                yield file


def read_file(file: Path, readers: tuple[Reader, ...]) -> Iterator[Document]:
    """The texts of one file; Unreadable, whatever is wrong with it."""
    try:
        reader, size, found = choose(file, readers), file.stat().st_size, False
        if reader.limit and size > reader.limit:
            raise Unreadable(f"{size / 1e6:,.0f} MB of {reader.kind}, which is read whole; "
                             f"the limit is {reader.limit / 1e6:,.0f} MB")
        for text in reader.read(file):
            if text.strip():
                found = True
                text = text.encode("utf-8", "replace").decode()  # JSON and PDF can hold lone surrogates
                yield Document(text, file, reader.kind)
    except OSError as error:
        raise Unreadable(f"cannot be opened ({error.strerror or error})") from error
    except UnicodeError as error:
        raise Unreadable(f"is not UTF-8 text ({error})") from error
    if not found:
        raise Unreadable(f"no text in it ({reader.kind})")


def choose(file: Path, readers: tuple[Reader, ...]) -> Reader:
    """The reader for a file: by its first bytes, else by its suffix, else plain text if it looks so."""
    with file.open("rb") as source:
        head = source.read(HEAD)
    if not head:
        raise Unreadable("is empty")
    start, suffix = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower(), file.suffix.lower()
    by_content = (reader for reader in readers if start.startswith(reader.starts))
    by_suffix = (reader for reader in readers if suffix in reader.suffixes)
    reader = next(by_content, None) or next(by_suffix, TEXT)
    if not reader.binary and b"\0" in head and not head.startswith(UTF16):
        raise Unreadable("is binary, of no format known here")
    return reader


def read_text(file: Path, encoding: str | None = None) -> Iterator[str]:
    """Plain text in pieces that end at the end of a line where they can. UTF-8, or UTF-16 with its mark."""
    with open_text(file, encoding) as source:
        rest = ""
        while piece := source.read(PIECE):
            rest += piece
            if len(rest) >= PIECE:
                end = rest.rfind("\n") + 1 or len(rest)
                yield rest[:end]
                rest = rest[end:]
        yield rest


def open_text(file: Path, encoding: str | None = None):
    """The file opened as text, by its byte order mark if it has one."""
    with file.open("rb") as source:
        marked = source.read(2) in UTF16
    return file.open(encoding="utf-16" if marked else encoding or "utf-8-sig")


def read_html(file: Path) -> Iterator[str]:
    """What a browser would show; scripts, styles and markup fall away."""
    with file.open("rb") as source:
        charset = re.search(rb"charset\s*=\s*[\"']?([\w-]+)", source.read(HEAD))
    page = Page()
    try:
        for piece in read_text(file, charset and charset[1].decode()):
            yield page.take()  # of the piece before
            page.feed(piece)
        page.close()
        yield page.take()
    except LookupError as error:
        raise Unreadable(f"is in an unknown character set ({error})") from error


class Page(HTMLParser):
    """Collects the text of a page that is fed in pieces; a block of the page is a line of the text."""

    SILENT = frozenset(("script", "style", "template", "svg", "noscript"))
    INLINE = frozenset(("a", "b", "code", "em", "i", "kbd", "q", "small", "span", "strong", "sub", "sup"))

    def __init__(self):
        super().__init__()
        self.parts: list[str] = []
        self.silent = 0

    def handle_starttag(self, tag, attrs):
        self.silent += tag in self.SILENT
        self.parts.append("" if tag in self.INLINE else "\n")

    def handle_endtag(self, tag):
        self.silent = max(0, self.silent - (tag in self.SILENT))
        self.parts.append("" if tag in self.INLINE else "\n")

    def handle_data(self, data):
        if not self.silent:
            self.parts.append(re.sub(r"\s+", " ", data))

    def take(self) -> str:
        """The text since the last call, without empty lines."""
        lines = (line.strip() for line in "".join(self.parts).splitlines())
        self.parts.clear()
        return "".join(line + "\n" for line in lines if line)


def read_json(file: Path) -> Iterator[str]:
    """A text for each element of a list, or one for anything else."""
    with open_text(file) as source:
        value = parsed(source.read())
    yield from map(strings, value if isinstance(value, list) else [value])


def read_jsonl(file: Path) -> Iterator[str]:
    """A text for each line."""
    with open_text(file) as source:
        for number, line in enumerate(iter(lambda: source.readline(LINE), ""), start=1):
            if len(line) == LINE:
                raise Unreadable(f"line {number} is longer than {LINE:,} characters")
            if line.strip():
                yield strings(parsed(line, f" in line {number}"))


def parsed(text: str, where: str = ""):
    """The JSON value; Unreadable where it is broken, or nested deeper than Python goes."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"broken JSON{where} ({error})") from error


def strings(value) -> str:
    """The text of a JSON value: its "text" if it has one, else every string in it, one a line."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        value = [value["text"]] if isinstance(value.get("text"), str) else value.values()
    return "\n".join(filter(None, map(strings, value))) if isinstance(value, Iterable) else ""


def read_pdf(file: Path) -> Iterator[str]:
    """A text for each page that has one."""
    try:
        import pypdf
    except ImportError as error:
        raise Missing("every PDF: pypdf is not installed (it is in the extra `ui`)") from error
    letters = 0
    with broken_pdf(), file.open("rb") as source:
        pdf = pypdf.PdfReader(source)
        if pdf.is_encrypted and not pdf.decrypt(""):
            raise Unreadable("encrypted PDF: save it without its password")
        for page in pdf.pages:
            yield (text := page.extract_text())
            letters += len(text.strip())
        if not letters:
            raise Unreadable(f"PDF without text on its {len(pdf.pages)} pages: scanned, so it needs OCR")


@contextlib.contextmanager
def broken_pdf() -> Iterator[None]:
    """Whatever pypdf raises on a broken file becomes Unreadable, and its warnings are not printed."""
    logger = logging.getLogger("pypdf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (Unreadable, OSError):
        raise
    except Exception as error:  # a parser of hostile files: anything from KeyError to RecursionError
        raise Unreadable(f"broken PDF ({type(error).__name__}: {str(error)[:80]})") from error
    finally:
        logger.setLevel(level)


def read_image(file: Path) -> Iterator[str]:
    """The text that tesseract sees in a picture."""
    if not (tesseract := shutil.which("tesseract")):
        raise Missing("every picture: tesseract, which reads text in pictures, is not installed")
    try:
        seen = subprocess.run([tesseract, str(file.resolve()), "-"], capture_output=True, timeout=120)
    except subprocess.TimeoutExpired as error:
        raise Unreadable("tesseract needed more than two minutes") from error
    if seen.returncode:
        reason = seen.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise Unreadable(f"broken picture ({reason or 'tesseract failed'})")
    yield seen.stdout.decode("utf-8", errors="replace")


IMAGES = (b"\x89png", b"\xff\xd8\xff", b"gif8", b"ii*\0", b"mm\0*", b"riff")
LANGUAGES = {
    "python": (".py",), "c": (".c", ".h"), "c++": (".cc", ".cpp", ".hpp"), "cuda": (".cu", ".cuh"),
    "java": (".java",), "javascript": (".js",), "typescript": (".ts",), "rust": (".rs",), "go": (".go",),
    "ruby": (".rb",), "shell": (".sh",), "sql": (".sql",),
}
TEXT = Reader("text", (".txt", ".text", ".rst", ".tex", ".log", ".csv", ".tsv"), read_text)
READERS = (
    Reader("pdf", (".pdf",), read_pdf, (b"%pdf-",), IN_MEMORY, binary=True),
    Reader("image", (".png", ".jpg", ".jpeg", ".gif", ".tiff"), read_image, IMAGES, IN_MEMORY, binary=True),
    Reader("html", (".html", ".htm", ".xhtml"), read_html, (b"<!doctype html", b"<html"), IN_MEMORY),
    Reader("jsonl", (".jsonl", ".ndjson"), read_jsonl),
    Reader("json", (".json",), read_json, limit=IN_MEMORY),
    Reader("markdown", (".md", ".markdown"), read_text),
    *(Reader(language, suffixes, read_text) for language, suffixes in LANGUAGES.items()),
    TEXT,
)
