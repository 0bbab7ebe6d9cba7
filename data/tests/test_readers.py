"""Readers on files made here: each format, and every way in which a file can be no good."""

import os
import tracemalloc

import pytest

from common.errors import UserError
from data import readers
from data.readers import READERS, Document, Reader, Unreadable, read_folder

HTML = """<!DOCTYPE html><html><head><title>A &amp; B</title><style>p {color: red}</style>
<script>if (a < b) { alert("no"); }</script></head><body><h1>Title</h1><p>One <b>bold</b>
word.<br>Next&nbsp;line.</p><ul><li>first<li>second</ul></body></html>"""


def texts(path, **more):
    """The documents' texts, and what was said."""
    said = []
    return [document.text for document in read_folder(path, say=said.append, **more)], said


def put(folder, **files):
    """Files named like `a__txt`; text or bytes."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def one(tmp_path, name, content):
    """The documents of a single file."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_folder(path, say=pytest.fail))


def refused(tmp_path, name, content):
    """The one line that a file without text is refused with."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as error:
        list(read_folder(path, on_error="refuse"))
    assert name in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


# Formats

@pytest.mark.parametrize("name, content, kind, expected", [
    ("a.txt", "one\ntwo\n", "text", ["one\ntwo\n"]),
    ("README", "no suffix at all", "text", ["no suffix at all"]),
    ("a.unknown", "an unknown suffix", "text", ["an unknown suffix"]),
    ("a.TXT", b"\xef\xbb\xbfmarked", "text", ["marked"]),
    ("a.txt", "sixteen bits: é".encode("utf-16"), "text", ["sixteen bits: é"]),
    ("a.txt", "one\r\ntwo\r\n", "text", ["one\ntwo\n"]),
    ("a.md", "# Head\n\n*x*", "markdown", ["# Head\n\n*x*"]),
    ("a.py", "x = 1\n", "python", ["x = 1\n"]),
    ("a.cu", "__global__ void f();", "cuda", ["__global__ void f();"]),
    ("a.html", HTML, "html", ["A & B\nTitle\nOne bold word.\nNext line.\nfirst\nsecond\n"]),
    ("a.txt", "\n " + HTML, "html", ["A & B\nTitle\nOne bold word.\nNext line.\nfirst\nsecond\n"]),
    ("a.html", b"<meta charset=latin-1><p>caf\xe9", "html", ["café\n"]),
    ("a.html", "<p>not closed <b>at all", "html", ["not closed at all\n"]),
    ("a.html", "<p>AT&T", "html", ["AT&T\n"]),
    ("a.json", '{"title": "T", "n": 3, "parts": ["one", {"x": "two"}], "a": null}', "json", ["T\none\ntwo"]),
    ("a.json", '[{"text": "first", "id": "a1"}, {"text": "second"}, "third", 4]', "json",
     ["first", "second", "third"]),
    ("a.jsonl", '{"text": "one"}\n\n{"instruction": "Add.", "output": "3"}\n', "jsonl", ["one", "Add.\n3"]),
    ("a.json", '"\\ud83d alone"', "json", ["? alone"]),
])
def test_formats(tmp_path, name, content, kind, expected):
    documents = one(tmp_path, name, content)
    assert [document.text for document in documents] == expected
    assert {document.kind for document in documents} == {kind}
    for document in documents:
        document.text.encode("utf-8")


@pytest.mark.parametrize("name, content, reason", [
    ("a.txt", b"", "is empty"),
    ("a.txt", " \n\t\n", "no text in it"),
    ("a.txt", b"caf\xe9", "not UTF-8"),
    ("a.txt", b"\x00\x01\x02", "is binary"),
    ("a.docx", b"PK\x03\x04\x00\x00", "is binary"),
    ("a.json", '{"a": ', "broken JSON"),
    ("a.json", "[" * 200_000, "broken JSON"),
    ("a.json", "[1, 2]", "no text in it"),
    ("a.jsonl", '{"text": "fine"}\n{"text": \n', "broken JSON in line 2"),
    ("a.html", "<html><script>only()</script></html>", "no text in it"),
    ("a.html", "<html><meta charset=klingon>text", "unknown character set"),
])
def test_files_without_text_are_refused_in_one_line(tmp_path, name, content, reason):
    assert reason in refused(tmp_path, name, content)


# Folders

def test_a_folder_is_read_in_order_and_what_is_no_good_is_named(tmp_path):
    put(tmp_path, b__txt="bee", a__txt="", c__json="{", d__bin=b"\0\0", z__md="zed")
    (tmp_path / ".hidden").write_text("secret")
    for folder in ("sub", ".git"):
        (tmp_path / folder).mkdir()
    put(tmp_path / "sub", e__py="x = 1")
    (tmp_path / ".git" / "config").write_text("secret")
    found, said = texts(tmp_path)
    assert found == ["bee", "zed", "x = 1"]
    assert [line.split(":")[0].rpartition(os.sep)[2] for line in said] == ["a.txt", "c.json", "d.bin"]
    assert all(line.startswith("skipped ") and "\n" not in line for line in said)


def test_reading_is_lazy(tmp_path):
    put(tmp_path, a__txt="first", b__txt="second")
    documents = read_folder(tmp_path)
    assert next(documents) == Document("first", tmp_path / "a.txt", "text")
    (tmp_path / "b.txt").write_text("changed by now")
    assert next(documents).text == "changed by now"


@pytest.mark.parametrize("make, message", [
    (lambda path: None, "there is no file or folder"),
    (lambda path: path.mkdir(), "no file in .* has readable text"),
    (lambda path: path.write_bytes(b"\0"), "no file in .* has readable text"),
])
def test_nothing_to_read_is_one_line(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        texts(tmp_path / "x")


def test_on_error_is_one_of_two_words(tmp_path):
    with pytest.raises(ValueError, match="skip"):
        list(read_folder(tmp_path, on_error="ignore"))


@pytest.mark.skipif(os.name == "nt", reason="links and pipes as POSIX has them")
def test_links_and_pipes_do_no_harm(tmp_path):
    put(tmp_path, a__txt="fine")
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dead.txt").symlink_to(tmp_path / "gone.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    found, said = texts(tmp_path)
    assert found == ["fine"] and len(said) == 1 and "dead.txt: cannot be opened" in said[0]


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0,
                    reason="root may open every file")
def test_a_file_that_may_not_be_opened_is_named(tmp_path):
    put(tmp_path, a__txt="fine", b__txt="locked")
    (tmp_path / "b.txt").chmod(0)
    found, said = texts(tmp_path)
    assert found == ["fine"] and "Permission denied" in said[0]


def test_a_format_of_ones_own_comes_first(tmp_path):
    def read_pairs(path):
        if "=" not in path.read_text():
            raise Unreadable("no pair in it")
        yield from path.read_text().split("=")

    mine = Reader("pairs", (".ini", ".txt"), read_pairs)
    put(tmp_path, a__ini="key=value", b__txt="b=c", c__md="# as ever", d__ini="none")
    found, said = texts(tmp_path, readers=(mine, *READERS))
    assert found == ["key", "value", "b", "c", "# as ever"] and "no pair in it" in said[0]


# Size

def peak(path):
    """Most memory in bytes that Python held while the documents went by, and how many characters they had."""
    tracemalloc.start()
    total = sum(len(document.text) for document in read_folder(path, say=pytest.fail))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held, total


@pytest.mark.parametrize("name, line", [("a.txt", "a line of text\n"), ("a.txt", "no end of line "),
                                        ("a.jsonl", '{"text": "' + 50 * "a line of it " + '"}\n')])
def test_a_large_file_streams_in_bounded_memory(tmp_path, name, line):
    with (tmp_path / name).open("w") as file:
        for _ in range(24):
            file.write(line * ((1 << 20) // len(line)))
    held, total = peak(tmp_path / name)
    assert total > 7e6 and held < 10e6


def test_pieces_end_at_the_end_of_a_line_and_lose_nothing(tmp_path):
    text = "".join(f"line {i}\n" for i in range(300_000))
    pieces = [document.text for document in one(tmp_path, "a.txt", text)]
    assert len(pieces) > 2 and "".join(pieces) == text and all(piece.endswith("\n") for piece in pieces)


@pytest.mark.parametrize("name", ["a.json", "a.pdf", "a.png", "a.html", "a.txt"])
def test_a_gigabyte_is_refused_or_recognised_at_once(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.write({"a.txt": b"text, then nothing but "}.get(name, b"["))
        file.truncate(1 << 30)  # a hole: it takes no room on the disk
    with pytest.raises(UserError, match=r"1,074 MB of \w+, which is read whole|is binary"):
        list(read_folder(tmp_path, on_error="refuse"))


def test_an_endless_line_of_json_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LINE", 1000)
    assert "line 1 is longer than 1,000" in refused(tmp_path, "a.jsonl", '{"text": "' + "a" * 2000 + '"}')
