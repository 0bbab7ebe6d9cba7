"""Documents: cut, found, cited; what strangers write stays inert; uploads are bounded and never believed."""

import html.parser
import io
import re
import string
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from phase10_deployment.project30_gradio import _draw, _read, _town
from phase10_deployment.project30_gradio.documents import (
    WORD,
    Chunk,
    Shelf,
    blindly,
    chunks,
    cited,
    cut,
    extract,
    measured,
    prompt,
    sentences,
)
from phase10_deployment.project30_gradio.inert import APART, filled, inert

TEXT = "Mara bakes bread. She lives in Mill Lane.\nJoss is her friend! He works at the harbour, every day."
ODD = st.text(alphabet='ab .!?\n"é<>', max_size=120)


def size(text):
    return len(WORD.findall(text))


# ---- cut ----


@pytest.mark.exercise("chunks")
def test_chunks_by_hand():
    """Sentences of 4, 6, 5 and 9 words and marks."""
    assert [size(TEXT[a:b]) for a, b in sentences(TEXT)] == [4, 6, 5, 9]
    assert [TEXT[a:b][:4] for a, b in chunks(TEXT, 11, 0)] == ["Mara", "Joss", "He w"]
    assert [TEXT[a:b][:4] for a, b in chunks(TEXT, 15, 6)] == ["Mara", "Joss"], "what fits is taken"
    assert [TEXT[a:b] for a, b in chunks(TEXT, 12, 7)] == [
        "Mara bakes bread. She lives in Mill Lane.", "She lives in Mill Lane.\nJoss is her friend!",
        "He works at the harbour, every day."], "an overlap, unless the next one would not fit"  # fmt: skip
    assert chunks("", 10, 2) == [] and chunks(" \n ", 10, 2) == []
    for bad in ((10, 10), (0, 0), (5, -1)):
        with pytest.raises(UserError):
            chunks(TEXT, *bad)


@pytest.mark.exercise("chunks")
@settings(max_examples=40, deadline=None)
@given(ODD, st.integers(1, 12), st.integers(0, 11))
def test_every_sentence_is_in_a_chunk_and_none_is_too_long(text, most, overlap):
    overlap = min(overlap, most - 1)
    found, parts = chunks(text, most, overlap), measured(text, most)
    assert all(any(a <= start and end <= b for a, b in found) for start, end, _ in parts)
    for a, b in found:
        inside = [n for start, end, n in parts if a <= start and end <= b]
        assert 1 <= sum(inside) <= most
    for (_, b), (a, z) in pairwise(found):
        shared = [n for start, end, n in parts if a <= start and end <= b]
        assert sum(shared) <= overlap and z > b, "the next one gets on"
    starts = [a for a, _ in found]
    assert starts == sorted(starts) and {a for a, _ in found} <= {start for start, _, _ in parts}


def test_blind_cuts_go_through_names():
    pieces = [TEXT[a:b] for a, b in blindly(TEXT, 12)]
    assert "".join(pieces) == TEXT and not any("Mill Lane" in piece for piece in pieces)


# ---- found ----


def test_matches_bm25_where_there_are_no_vectors():
    """The scores are project 10's; vectors are mixed in by weight, and 0 leaves them out."""
    found = [Chunk("a", 0, 0, text) for text in ("Mara bakes bread", "Joss plays the flute", "the river")]
    shelf = Shelf(found)
    assert shelf.search("Who plays a flute?", 1) == [1]
    near = Shelf(found, np.eye(3))
    assert near.search("Who plays a flute?", 1, np.eye(3)[2], weight=1.0) == [2]
    assert near.search("Who plays a flute?", 1, np.eye(3)[2], weight=0.0) == [1]
    assert shelf.rarity("flute") > 0 and shelf.rarity("nobody said it") >= shelf.rarity("flute")
    with pytest.raises(UserError):
        Shelf([])


@pytest.mark.exercise("cited")
def test_each_sentence_is_traced_to_the_passage_that_says_so():
    passages = ["Joss works at the harbour.", "Mara lives in Mill Lane and bakes.", "Mara lives by the sea."]
    answer = "Mara lives in Mill Lane. She owns a yacht there! Joss works at the harbour."
    assert cited(answer, passages) == [
        ("Mara lives in Mill Lane.", 1), ("She owns a yacht there!", None),
        ("Joss works at the harbour.", 0)]  # fmt: skip
    assert cited("Mara lives.", passages) == [("Mara lives.", 1)], "of equal ones the first"
    assert cited("It is.", passages) == [("It is.", None)] and cited("", passages) == []
    assert cited("Mara bakes.", []) == [("Mara bakes.", None)]


@pytest.mark.exercise("cited")
def test_rare_words_weigh_more_and_half_is_not_enough():
    passages = ["Mara Mara Mara lives.", "Tilda plays the zither."]
    rare = {"zither": 5.0, "mara": 1.0, "lives": 1.0}
    assert cited("Mara lives, a zither.", passages, rare.get)[0][1] == 1
    assert cited("Mara lives, a zither.", passages, lambda word: 1.0)[0][1] == 0
    assert cited("Mara eats plums, figs.", passages)[0][1] is None
    assert cited("Mara eats.", passages, least=0.5)[0][1] == 0


def test_an_answer_without_a_model():
    passages = ["Joss sings. Joss works at the harbour.", "Mara works at the mill."]
    assert extract("Where does Joss work at? At the harbour?", passages) == ("Joss works at the harbour.", 0)
    assert extract("Why?", passages) == (None, None)
    assert prompt("Who?", ["a\nb", "c"]) == "[1] a b\n[2] c\n\nNow answer from the text: Who?"


def test_the_question_set_can_be_answered():
    """Every question's evidence stands in its document, once cut in a chunk, and holds the answer."""
    texts, asked = _town.questions(each=8, length=250)
    found = cut(texts, 60, 15)
    assert {one.kind for one in asked} == {"visitors", "residents"} and len(asked) == 16
    for one in asked:
        assert one.evidence in texts[one.source]
        assert _town.right(one, one.evidence) or one.kind == "residents"
        assert any(_town.holds(chunk, one) for chunk in found), one
        assert _town.right(one, f"{one.answer}.") and not _town.right(one, "I do not know.")


# ---- inert ----

ATTACKS = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "![a](http://evil.example/?q=1)",
           "<svg/onload=alert(1)>", "<!-- x -->", "<http://evil.example>", "a <b>bold</b>",
           "<style>*{}</style>",
           "`<img src=x>` and ```\n<img src=y>\n```", "- x\n\n  ```\n<iframe src=//evil.example>",
           "![a][1]\n\n[1]: /x",
           "<?php x ?>", "<![CDATA[x]]>", "</div><form action=//evil.example>"]  # fmt: skip


def begun(text):
    """What CommonMark's reference port for Python finds of HTML and images, HTML allowed."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True})
    flat = [one for token in markdown.parse(text) for one in [token, *(token.children or ())]]
    links = [one for one in flat if one.type == "link_open" and one.markup == "autolink"]
    return [one.type for one in flat if one.type in ("html_block", "html_inline", "image")] + links


@pytest.mark.exercise("inert")
@pytest.mark.parametrize("attack", ATTACKS)
def test_matches_commonmark_nothing_begins(attack):
    """A parser that allows HTML finds none, and no image; and the text looks as before."""
    assert begun(inert(attack)) == [] and inert(attack).replace(APART, "") == attack


@pytest.mark.exercise("inert")
@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="<>!/?[](): `~\n-ab\"'&=", max_size=60))
def test_nothing_begins_in_any_text(text):
    assert begun(inert(text)) == [] and inert(text).replace(APART, "") == text


@pytest.mark.exercise("inert")
def test_what_is_harmless_stays_as_it_is():
    for text in ("1 < 2 and 3 <4, a <- b", "Wow! [a](b)", "**bold** `x = a[1]`", "", "é🥞"):
        assert inert(text) == text


@pytest.mark.exercise("filled")
def test_templates_fill_names_and_nothing_else():
    values = {"name": "Mara", "date": "today"}
    assert filled("You are {name}; {name}, {date}.", values) == "You are Mara; Mara, today."
    for odd in ("{name.__class__}", "{0}", "{}", "{unknown}", "{{", "{ name }", "%(name)s", "{name!r}"):
        assert filled(odd, values) == odd


@pytest.mark.exercise("filled")
def test_what_is_filled_in_is_not_filled_again():
    assert filled("{name} {date}", {"name": "{date}", "date": "{name}"}) == "{date} {name}"
    assert filled("{name}", {"name": r"\1 \g<0> $x"}) == r"\1 \g<0> $x"


@pytest.mark.exercise("filled")
@settings(max_examples=25, deadline=None)
@given(st.text(alphabet="ab {}", max_size=20), st.text(alphabet="{}$\\a", max_size=6))
def test_matches_string_template(text, value):
    """Python's own Template, with braces written its way, fills the same."""

    class Braced(string.Template):
        pattern = r"(?P<escaped>(?!))|\{(?P<named>\w+)\}|(?P<braced>(?!))|(?P<invalid>(?!))"

    assert filled(text, {"a": value, "b": "B"}) == Braced(text).safe_substitute(a=value, b="B")


class Tags(html.parser.HTMLParser):
    """All tags of a text, and what stands in their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.mark.parametrize("evil", ["<script>x</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='x"])
def test_nothing_drawn_lets_text_out(evil):
    """Tokens, names, passages, figures: what comes from outside makes no tag and no attribute."""
    drawn = [_draw.note(evil), _draw.trouble(evil), _draw.tokens([evil, "\n"], [evil, 2]),
             _draw.learner([evil]), _draw.tokens([evil], heat=[0.5], titles=[evil]),
             _draw.bars([(evil, 0.5, 0.5)], (1, 1), 2, 2, evil),
             _draw.passages([(1, evil, f"a {evil} b")], [(1, evil)]), _draw.traced([(evil, 1), (evil, None)]),
             _draw.blocks([(evil, 1, 2), (None, 0, 2)])]  # fmt: skip
    for markup in drawn:
        for tag, attributes in Tags(markup).found:
            assert tag not in ("script", "img") and not any(name.startswith("on") for name in attributes), (
                markup
            )
    assert evil in re.sub(APART, "", _plain(drawn[0]))


def _plain(markup):
    import html

    return html.unescape(re.sub(r"<[^>]*>", "", markup))


# ---- uploads ----


def a_pdf(text):
    """The smallest PDF that says something."""
    stream = zlib.compress(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode())
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
               b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R"
               b"/Resources<</Font<</F1 5 0 R>>>>>>",
               b"<</Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (len(stream), stream),
               b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]  # fmt: skip
    out, places = io.BytesIO(b""), []
    out.write(b"%PDF-1.4\n")
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj%s endobj\n" % (number, body))
    table = out.tell()
    rows = b"".join(b"%010d 00000 n \n" % place for place in places)
    tail = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % table
    out.write(b"xref\n0 6\n0000000000 65535 f \n" + rows + tail)
    return out.getvalue()


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        _read.text_of(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_uploads_of_text(tmp_path):
    for data, want in ((b"a\r\nb", "a\nb"), ("é".encode("utf-16"), "é"), ("\ufeffé".encode(), "é"),
                       (b"\xe9", "é"), (b"x" * 500_000, "x" * _read.CHARACTERS)):  # fmt: skip
        path = tmp_path / "a.txt"
        path.write_bytes(data)
        assert _read.text_of(path) == want


def test_uploads_that_are_refused(tmp_path, monkeypatch):
    """By kind, size, and what is in them; in one line."""
    assert "is no text" in refused(tmp_path / "a.py", b"\x7fELF\0\0\0")
    assert "is not read here" in refused(tmp_path / "a.exe", b"x")
    assert "bytes" in refused(tmp_path / "a.txt", b"") and "no text" in refused(tmp_path / "b.txt", b" \n")
    monkeypatch.setattr(_read, "BYTES", 10)
    assert "bytes" in refused(tmp_path / "a.txt", b"x" * 11)
    assert _read.called("/x/..\n<b>.txt") == "..<b>.txt"


def test_uploads_of_pdf(tmp_path):
    """Read in a process of its own; broken ones are refused in one line, endless ones given up."""
    pytest.importorskip("pypdf")
    path = tmp_path / "a.pdf"
    path.write_bytes(a_pdf("Ilmo lives in Mill Lane."))
    assert "Ilmo lives in Mill Lane." in _read.text_of(path)
    assert "could not be read" in refused(tmp_path / "b.pdf", b"%PDF-1.4 nothing")


def test_a_reader_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(_read, "SECONDS", 0.3)
    with pytest.raises(UserError, match="given up"):
        _read.run("a.pdf", [sys.executable, "-c", "import time; time.sleep(60)"])


def test_uploads_of_images(tmp_path, monkeypatch):
    """Read where tesseract is; else the reason is said. A bomb is refused by its size."""
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.png"
    image.new("L", (200, 60), 255).save(path)
    monkeypatch.setattr(_read.shutil, "which", lambda name: None)
    assert "tesseract is not installed" in refused(path, path.read_bytes())
    monkeypatch.setattr(_read.shutil, "which", lambda name: "/bin/echo")
    assert ".read.png" in _read.text_of(path), "echo stands in for tesseract: it says what it was given"
    assert not list(tmp_path.glob("*.read.png"))
    assert "no image" in refused(path, b"\x89PNG broken")
    image.new("L", (200, 60), 255).save(path)
    monkeypatch.setattr(_read, "PIXELS", 100)
    assert "pixels" in refused(path, path.read_bytes())
