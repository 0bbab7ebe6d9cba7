"""Formats that need a library or a program: with a stand-in for it, and with the thing itself where it is."""

import os
import stat
import sys
import types

import pytest

from common.errors import UserError
from data import readers
from data.readers import Document, read_folder


def one(tmp_path, name, content):
    """The documents of a single file."""
    (tmp_path / name).write_bytes(content)
    return list(read_folder(tmp_path / name, say=pytest.fail))


def refused(tmp_path, name, content):
    """The one line that a file without text is refused with."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_folder(tmp_path / name, on_error="refuse"))
    assert name in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def skipped(tmp_path, files):
    """What is said of a folder in which only the text file can be read."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    said = []
    assert [document.kind for document in read_folder(tmp_path, say=said.append)] == ["text"]
    return said


def pdf_bytes(*pages):
    """A PDF made by hand, with one line of text on each page ("" for a page without text)."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>",
               f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>",
               "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    for i, text in enumerate(pages):
        content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else "0 0 10 10 re f"
        objects += [f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R "
                    "/Resources << /Font << /F1 3 0 R >> >> >>",
                    f"<< /Length {len(content)} >>\nstream\n{content}\nendstream"]
    body, places = "%PDF-1.4\n", []
    for number, value in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{number} 0 obj\n{value}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    return (f"{body}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
            f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n").encode()


class Page:
    def __init__(self, text):
        self.text = text

    def extract_text(self):
        if isinstance(self.text, Exception):
            raise self.text
        return self.text


def stand_in(monkeypatch, pages=(), encrypted=False, error=None):
    """Put a module with pypdf's interface in pypdf's place."""
    def reader(source):
        if error:
            raise error
        assert source.read(5) == b"%PDF-"
        return types.SimpleNamespace(pages=[Page(page) for page in pages], is_encrypted=encrypted,
                                     decrypt=lambda password: 0)
    monkeypatch.setitem(sys.modules, "pypdf", types.SimpleNamespace(PdfReader=reader))


def test_pdf_pages_are_documents(tmp_path, monkeypatch):
    stand_in(monkeypatch, ["Page one", "", "Page three"])
    assert [document.text for document in one(tmp_path, "a.txt", b"%PDF-1.4")] == ["Page one", "Page three"]


@pytest.mark.parametrize("given, reason", [
    ({"pages": ["", " "]}, "without text on its 2 pages: scanned"),
    ({"pages": ["secret"], "encrypted": True}, "encrypted PDF"),
    ({"error": KeyError("/Root")}, "broken PDF (KeyError"),
    ({"pages": [RecursionError("too deep")]}, "broken PDF (RecursionError"),
])
def test_pdfs_without_text_are_refused(tmp_path, monkeypatch, given, reason):
    stand_in(monkeypatch, **given)
    assert reason in refused(tmp_path, "a.pdf", b"%PDF-1.4")


def test_without_pypdf_one_line_stands_for_every_pdf(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdf", None)
    said = skipped(tmp_path, {"a.pdf": pdf_bytes("x"), "b.pdf": pdf_bytes("y"), "c.txt": b"text"})
    assert said == ["skipped every PDF: pypdf is not installed (it is in the extra `ui`)"]


class TestPypdf:
    """With pypdf itself."""

    @pytest.fixture(autouse=True)
    def pypdf(self):
        return pytest.importorskip("pypdf", reason="pypdf (extra ui) is not installed")

    def test_a_pdf_made_by_hand(self, tmp_path):
        documents = one(tmp_path, "a.pdf", pdf_bytes("Hello there", "", "Second page"))
        assert [document.text.strip() for document in documents] == ["Hello there", "Second page"]

    def test_scanned(self, tmp_path):
        assert "scanned" in refused(tmp_path, "a.pdf", pdf_bytes("", ""))

    def test_encrypted(self, tmp_path, pypdf):
        for password, expected in (("secret", "encrypted PDF"), ("", None)):
            writer = pypdf.PdfWriter()
            (tmp_path / "plain.pdf").write_bytes(pdf_bytes("Hello there"))
            writer.append(tmp_path / "plain.pdf")
            writer.encrypt(password, "owner", algorithm="RC4-128")
            writer.write(tmp_path / "locked.pdf")
            locked = (tmp_path / "locked.pdf").read_bytes()
            if expected:
                assert expected in refused(tmp_path, "a.pdf", locked)
            else:
                assert one(tmp_path, "b.pdf", locked)[0].text == "Hello there"

    def test_broken(self, tmp_path, caplog):
        whole = pdf_bytes("Hello there")
        for broken in (b"%PDF-1.4", whole[:200], whole.replace(b"/Pages", b"/Pigs!"), b"%PDF-" + bytes(5000),
                       whole.replace(b"4 0 R", b"1 0 R")):
            assert "PDF" in refused(tmp_path, "a.pdf", broken)
        assert not caplog.records


# Pictures

PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


def test_without_tesseract_one_line_stands_for_every_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(readers.shutil, "which", lambda name: None)
    said = skipped(tmp_path, {"a.png": PNG, "b.jpg": b"\xff\xd8\xff\xe0", "c.txt": b"text"})
    assert len(said) == 1 and "every picture: tesseract" in said[0]


def tesseract(monkeypatch, tmp_path, body):
    """Put a program of that name in its place."""
    program = tmp_path / "tesseract"
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(readers.shutil, "which", lambda name: str(program))


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for tesseract is a script")
def test_pictures(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    tesseract(monkeypatch, tmp_path, "assert sys.argv[2] == '-'; open(sys.argv[1]); print('Seen in it')")
    [document] = one(tmp_path / "in", "a.png", PNG)
    assert document == Document("Seen in it\n", tmp_path / "in" / "a.png", "image")
    tesseract(monkeypatch, tmp_path, "sys.exit('cannot read it')")
    assert "broken picture (cannot read it)" in refused(tmp_path / "in", "a.png", PNG)
    tesseract(monkeypatch, tmp_path, "print()")
    assert "no text in it (image)" in refused(tmp_path / "in", "a.png", PNG)


def test_a_picture_that_takes_for_ever_is_given_up(tmp_path, monkeypatch):
    def run(*args, timeout, **more):
        raise readers.subprocess.TimeoutExpired(args, timeout)

    monkeypatch.setattr(readers.shutil, "which", lambda name: name)
    monkeypatch.setattr(readers.subprocess, "run", run)
    assert "two minutes" in refused(tmp_path, "a.png", PNG)
