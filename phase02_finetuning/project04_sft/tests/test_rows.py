"""Rows from files: three shapes into one, and what is wrong with those that are none."""

import json
import sys
from types import SimpleNamespace

import pytest

from common.errors import UserError
from phase02_finetuning.project04_sft import rows

ASKED, SAID = "Name a fruit.", "A pear."
TALK = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
SHAREGPT = {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]}


@pytest.mark.parametrize("row", [
    {"messages": TALK}, {"instruction": ASKED, "input": "", "output": SAID}, SHAREGPT,
    {"instruction": ASKED, "output": SAID}, {"messages": TALK, "conversations": "ignored"},
])  # fmt: skip
def test_three_shapes_become_one(row):
    assert rows.conversation(row)["messages"] == TALK


def test_what_else_a_row_holds_is_kept():
    row = {"instruction": "Translate.", "input": "Birne", "output": "Pear", "family": "words"}
    found = rows.conversation(row)
    assert found["messages"][0]["content"] == "Translate.\n\nBirne" and found["family"] == "words"
    system = [{"from": "system", "value": "Be brief."}, *SHAREGPT["conversations"]]
    assert rows.conversation({"conversations": system})["messages"][0]["role"] == "system"


BAD = {
    "a str, not an object": "text",
    "none of messages, conversations, or instruction and output; it has text": {"text": "A pear."},
    "it has nothing": {},
    "'messages' is no list": {"messages": "Name a fruit."},
    "a turn without text under 'content'": {"messages": [{"role": "user", "content": None}]},
    "a turn by 'tool': the roles are": {"messages": [{"role": "tool", "content": "x"}]},
    "a turn by [1]: the roles are": {"messages": [{"role": [1], "content": "x"}]},
    "does not end with a turn of the assistant": {"messages": TALK[:1]},
    "nothing to learn": {"messages": []},
    "do not take turns: user, assistant, assistant": {"messages": [*TALK, TALK[1]]},
    "do not take turns: assistant": {"messages": TALK[1:]},
    "a system turn behind the first": {"messages": [{"role": "system", "content": "x"}] * 2 + TALK},
    "an empty turn": {"instruction": ASKED, "output": " \n"},
}


@pytest.mark.parametrize("why", BAD)
def test_malformed_rows_say_why(why):
    with pytest.raises(rows.Malformed) as error:
        rows.conversation(BAD[why])
    assert why in str(error.value)


def listing(*parts):
    return "[\n" + ",\n".join(json.dumps(part) for part in parts) + "\n]\n"


def test_bad_rows_are_counted_with_file_and_line(tmp_path):
    """A JSON list and JSON Lines: every row that can be read is, and the line of each that cannot is said."""
    (tmp_path / "a.json").write_text(listing(SHAREGPT, {"text": "no"}, {"messages": TALK}), "utf-8")
    lines = [json.dumps({"messages": TALK}), "", "{broken", json.dumps(SHAREGPT), '"text"']
    (tmp_path / "b.jsonl").write_text("\ufeff" + "\n".join(lines), "utf-8")
    (tmp_path / "notes.txt").write_text("not rows")
    said = []
    found, bad = rows.read(str(tmp_path), say=said.append)
    assert [row["messages"] for row in found] == [TALK] * 4
    places = [place.rpartition("/")[2].rpartition("\\")[2] for place, _ in bad]
    assert places == ["a.json, line 3", "b.jsonl, line 3", "b.jsonl, line 5"]
    assert "none of messages" in bad[0].why and "broken JSON" in bad[1].why and len(said) == 3
    assert all("left out" in line and place in line for line, (place, _) in zip(said, bad, strict=True))


@pytest.mark.parametrize("text, line, many", [
    (listing({"messages": TALK})[:-3] + ",\n{oops]", 3, 1), (listing({"messages": TALK}).rstrip()[:-1], 2, 1),
    ('[{"instruction": "a", "output": "b"} {"instruction": "c", "output": "d"}]', 1, 1),
])  # fmt: skip
def test_a_list_that_breaks_off(tmp_path, text, line, many):
    """What stands before the break is read, the break is said with its line, nothing is guessed."""
    (tmp_path / "a.json").write_text(text, "utf-8")
    found, bad = rows.read(str(tmp_path / "a.json"), say=lambda line: None)
    assert len(found) == many and len(bad) == 1
    assert bad[0].place.endswith(f"line {line}") and "broken JSON" in bad[0].why


def test_the_first_bad_row_is_refused_if_asked(tmp_path):
    (tmp_path / "a.json").write_text(listing(SHAREGPT, {"text": "no"}), "utf-8")
    with pytest.raises(UserError, match=r"a\.json, line 3: none of messages.*--on-bad skip"):
        rows.read(str(tmp_path / "a.json"), on_bad="refuse")


def test_many_bad_rows_are_summed_up(tmp_path):
    (tmp_path / "a.json").write_text(listing(SHAREGPT, *[{"text": "no"}] * 9), "utf-8")
    said = []
    rows.read(str(tmp_path / "a.json"), say=said.append)
    assert len(said) == rows.SHOWN + 1 and "4 more, 9 in all of 10" in said[-1]


@pytest.mark.parametrize("name, text, why", [
    ("a.json", "[]", "holds no row to learn from"), ("a.jsonl", "\n \n", "holds no row to learn from"),
    ("a.txt", "words", None), ("a.json", b"\xff\xfe[]", "holds no row"),
])  # fmt: skip
def test_nothing_to_learn_from(tmp_path, name, text, why):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=why or r"no file in .* ends in \.json"):
        rows.read(str(folder), say=lambda line: None)


def test_published_sets_are_read_by_name(monkeypatch):
    """Through `datasets`: the split behind a colon, rows numbered, at most so many."""
    asked = []
    fake = SimpleNamespace(load_dataset=lambda name, split: asked.append((name, split)) or [SHAREGPT] * 5)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    found, bad = rows.read("someone/some-set:test", 3)
    assert asked == [("someone/some-set", "test")] and len(found) == 3 and not bad
    fake.load_dataset = lambda name, split: (_ for _ in ()).throw(ConnectionError("no\nnetwork"))
    with pytest.raises(UserError, match=r"no file someone/some-set, and the hub gave no such set: no$"):
        rows.read("someone/some-set")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="install the extra `hub`"):
        rows.read("someone/some-set")


def test_a_file_that_is_not_there_is_no_set_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # asking there would say something else
    with pytest.raises(UserError, match=r"there is no file .*rows\.jsonl"):
        rows.read(str(tmp_path / "rows.jsonl"))


def test_tinytown_never_ends():
    assert len(rows.read(rows.TOWN, 30).rows) == 30
    chosen = rows.read(rows.TOWN, 6, families=["json", "who"]).rows
    assert {row["family"] for row in chosen} == {"json", "who"}
    with pytest.raises(UserError, match="never ends"):
        rows.read(rows.TOWN)


@pytest.mark.needs_data
def test_the_published_instructions():
    """All 1,100 rows of the file are conversations, and each ends with its output."""
    try:
        found, bad = rows.read("instructions", say=lambda line: None)
    except UserError as why:
        pytest.skip(str(why))
    assert len(found) == 1100 and not bad
    assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in found)
