"""Where a corpus comes from: $THIRTY_DATA, the cache, a server on this machine, or what is embedded."""

import hashlib
import json
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from common.errors import UserError
from data import corpora
from data.corpora import CORPORA, Absent, Corpus, Part, export, find, load, path, paths, resolve, rows, stream
from data.files import records

NOWHERE = ("http://127.0.0.1:9/nothing-listens-here",)


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A table of small corpora, an empty home, no THIRTY_DATA, and a server for the folder `web`."""
    web = tmp_path / "web"
    web.mkdir()
    for name, text in (("known.txt", "to be"), ("new.txt", "not to be"), ("a.txt", "aaa\n"),
                       ("b.txt", "bbb\n"), ("c.txt", "ccc\n"),
                       ("rows.json", '[{"instruction": "Add", "output": "3"}]')):
        (web / name).write_text(text)
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(web)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    table = (
        Corpus("known", "", "MIT", (Part("known.txt", (f"{at}/known.txt",), 5, sha256=sha("to be")),)),
        Corpus("new", "", "MIT", (Part("new.txt", (f"{at}/new.txt",), 9),)),
        Corpus("split", "", "MIT", (Part("a.txt", (f"{at}/a.txt",), 4, "train"),
                                    Part("b.txt", (f"{at}/b.txt",), 4, "train"),
                                    Part("c.txt", (f"{at}/c.txt",), 4, "valid")), aliases=("divided",)),
        Corpus("rows", "", "MIT", (Part("rows.json", (f"{at}/rows.json",), 40),), is_rows=True),
        Corpus("far", "", "MIT", (Part("far.txt", NOWHERE, 1_000_000),)),
        Corpus("built", "", "MIT", build=lambda: "made here\n", stamp="1"),
    )
    monkeypatch.setattr(corpora, "CORPORA", table)
    monkeypatch.setenv("THIRTY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("THIRTY_DATA", "THIRTY_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    server.shutdown()
    server.server_close()


@pytest.fixture
def mine(world, monkeypatch):
    """An empty folder that THIRTY_DATA names."""
    folder = world / "mine"
    folder.mkdir()
    monkeypatch.setenv("THIRTY_DATA", str(folder))
    return folder


def one_line(error):
    return "\n" not in str(error.value)


def test_first_thirty_data_then_the_cache_then_the_server(mine, world):
    said = []
    assert load("new", say=said.append) == "not to be"
    assert said == ["fetched new.txt, 0.0 MB (licence: MIT)"]
    (world / "web" / "new.txt").unlink()
    assert load("new", say=said.append) == "not to be" and len(said) == 1  # from the cache, in silence
    (mine / "new.txt").write_text("my own")
    assert load("new") == "my own"


def test_without_network_the_fallback_takes_over_after_one_line(world):
    said = []
    assert load("far", fallback="built", say=said.append) == "made here\n"
    assert len(said) == 1 and "far" in said[0] and "built" in said[0] and "\n" not in said[0]
    assert resolve("far", fallback="built", say=said.append) == "built"
    assert resolve("built", fallback=None) == "built" and resolve("new", fallback="built") == "new"


def test_without_network_and_fallback_one_line_says_what_to_do(world):
    with pytest.raises(Absent, match=r"far\.txt .* THIRTY_DATA") as error:
        load("far", fallback=None)
    assert one_line(error)


def test_offline_asks_no_server(world, monkeypatch):
    monkeypatch.setenv("THIRTY_OFFLINE", "1")
    with pytest.raises(Absent, match="THIRTY_OFFLINE is set"):
        load("known", fallback=None)
    monkeypatch.delenv("THIRTY_OFFLINE")
    assert load("known", fallback=None) == "to be"
    monkeypatch.setenv("THIRTY_OFFLINE", "1")
    assert load("known", fallback=None) == "to be"  # cached by now


def test_thirty_data_that_names_no_folder_is_one_line(world, monkeypatch):
    monkeypatch.setenv("THIRTY_DATA", str(world / "no such folder"))
    with pytest.raises(UserError, match=r"THIRTY_DATA is .*no such folder.*correct it, or unset it") as error:
        load("known")
    assert one_line(error)


def test_another_file_of_that_name_in_thirty_data_is_refused(mine):
    (mine / "known.txt").write_text("to be or")
    with pytest.raises(UserError, match="is not the published file"):
        load("known")
    assert (mine / "known.txt").read_text() == "to be or"  # it is the user's


@pytest.mark.parametrize("name", ["known", "new"])
def test_a_damaged_cache_is_fetched_again(world, name):
    text = load(name)
    file = path(name)
    file.write_text("damaged")
    said = []
    assert load(name, say=said.append) == text
    assert "damaged" in said[0] and "fetched" in said[1] and len(said) == 2


def test_a_digest_that_nobody_knew_is_written_down_at_the_first_download(world):
    file = path("new")
    assert file.with_name("new.txt.sha256").read_text() == f"{sha('not to be')}  new.txt\n"
    (world / "web" / "new.txt").write_text("something else by now")
    assert load("new") == "not to be"
    file.write_text("damaged")
    with pytest.raises(UserError, match="other bytes than were published"):
        load("new")


def test_splits_are_read_in_order_or_one_by_one(world):
    assert load("split") == "aaa\nbbb\nccc\n" and load("divided/train") == "aaa\nbbb\n"
    assert {split: len(files) for split, files in paths("split").items()} == {"train": 2, "valid": 1}
    assert path("split/valid").read_text() == "ccc\n"
    with pytest.raises(UserError, match="3 files: ask for one split"):
        path("split")
    with pytest.raises(UserError, match="no split 'test'; it has train, valid"):
        load("split/test")


def test_thirty_data_with_some_splits_says_which(mine):
    (mine / "c.txt").write_text("mine\n")
    (mine / "a.txt").write_text("half of train is not train\n")
    said = []
    assert load("split", say=said.append) == "mine\n"
    assert said == ["split: reading the splits that are in $THIRTY_DATA (valid; no train)"]
    assert load("split/train") == "half of train is not train\nbbb\n"  # by name: the rest is fetched


def test_rows_and_text_are_not_confused(world):
    assert list(rows("rows")) == [{"instruction": "Add", "output": "3"}]
    with pytest.raises(UserError, match="holds rows, not text"):
        load("rows")
    with pytest.raises(UserError, match="holds text, not rows"):
        list(rows("new"))


def test_broken_files_are_one_line(mine):
    (mine / "new.txt").write_bytes(b"caf\xe9")
    (mine / "rows.json").write_text('[{"a": ')
    with pytest.raises(UserError, match="not UTF-8 text"):
        load("new")
    with pytest.raises(UserError, match="not JSON"):
        list(rows("rows"))


def test_a_text_of_any_size_comes_in_pieces(mine):
    (mine / "new.txt").write_text("abc\n" * 800_000)
    sizes = [len(piece) for piece in stream("new")]
    assert sum(sizes) == 3_200_000 and max(sizes) <= 1 << 20


def test_what_is_built_is_built_once(world, monkeypatch):
    def again():
        raise AssertionError("built a second time")

    assert load("built") == "made here\n"
    monkeypatch.setattr(corpora, "CORPORA", (Corpus("built", "", "MIT", build=again, stamp="1"),))
    assert load("built") == "made here\n"


def test_a_home_that_cannot_be_written_is_one_line(world, monkeypatch):
    (world / "taken").write_text("a file")
    monkeypatch.setenv("THIRTY_HOME", str(world / "taken"))
    for name in ("built", "known"):
        with pytest.raises(UserError, match=r"cannot write .* THIRTY_HOME"):
            load(name)


def test_export_writes_text_or_rows_under_the_name(world):
    out = world / "out"
    assert export("split", out).name == "split.txt" and (out / "split.txt").read_text() == "aaa\nbbb\nccc\n"
    assert export("split/valid", out).name == "split-valid.txt"
    assert json.loads(export("rows", out).read_text())["output"] == "3"
    with pytest.raises(Absent):
        export("far", out)
    assert sorted(file.name for file in out.iterdir()) == ["rows.jsonl", "split-valid.txt", "split.txt"]


def test_the_command_writes_files_and_says_where(world, capsys):
    assert corpora.main(["split/valid"]) == 0
    assert (world / "home" / "split-valid.txt").read_text() == "ccc\n"
    assert str(world / "home" / "split-valid.txt") in capsys.readouterr().out
    assert corpora.main(["--help"]) == 0 and "built" in capsys.readouterr().out
    assert corpora.main(["far"]) == 2
    assert capsys.readouterr().err.startswith("error: far.txt is neither in $THIRTY_DATA nor in")


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UserError, match="'shakespare'; did you mean 'shakespeare'") as error:
        find("shakespare")
    assert one_line(error)
    assert find("wikitext2")[0] is find("wikitext")[0]


def parquet(file, texts):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow (extra hub) is not installed")
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table({"text": texts}), file)


def test_parquet_is_read_row_by_row(mine, monkeypatch):
    parquet(mine / "p.parquet", [" = Title = \n", "", " Body . \n"])
    monkeypatch.setattr(corpora, "CORPORA", (Corpus("p", "", "MIT", (Part("p.parquet", NOWHERE, 1),)),))
    assert load("p") == " = Title = \n Body . \n"
    assert export("p", mine / "out").read_text() == " = Title = \n Body . \n"
    assert list(records(mine / "p.parquet"))[1:] == [{"text": ""}, {"text": " Body . \n"}]


def test_parquet_without_pyarrow_names_the_extra(mine, monkeypatch):
    (mine / "p.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(corpora, "CORPORA", (Corpus("p", "", "MIT", (Part("p.parquet", NOWHERE, 1),)),))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="extra `hub`"):
        load("p")


def test_the_table_is_sound():
    names = [name for corpus in CORPORA for name in (corpus.name, *corpus.aliases)]
    parts = [part for corpus in CORPORA for part in corpus.parts]
    assert len(set(names)) == len(names) and len({part.file for part in parts}) == len(parts)
    for corpus in CORPORA:
        assert corpus.licence and corpus.about and bool(corpus.parts) != bool(corpus.build)
    for part in parts:
        assert part.size > 0 and part.addresses
        assert all(address.startswith("https://") for address in part.addresses)
        assert part.sha256 is None or re.fullmatch("[0-9a-f]{64}", part.sha256)


@pytest.mark.needs_data
def test_the_real_files_are_what_the_table_says():
    assert load("shakespeare", fallback=None).startswith("First Citizen:")
    assert len(load("shakespeare")) == 1_115_394
    assert load("wikitext", fallback=None) == load("wikitext/valid") + load("wikitext/test")
    assert len(list(rows("instructions"))) == 1100
    assert {"chosen", "rejected"} <= set(next(rows("preferences")))
