"""What instructors have on the disk, and what can be read from a file before it runs."""

import json
import stat
import zipfile
from datetime import datetime
from pathlib import Path

import pytest

from common.cli import reading, submissions
from common.cli.submissions import Assignment, gather
from common.errors import UserError

TOY = Path(__file__).resolve().parents[1] / "common/tests/toy/phase99_toy/project99_toy"
REFERENCE = (TOY / "toy.py").read_bytes()
NAME = "project99_toy"


def zipped(path, **files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in files.items():
            file.writestr(name.replace("__", "/").replace("0dot0", ".."), text)
    return path


def test_the_places_where_a_project_may_lie(tmp_path):
    """my/ counts before the rest of a clone, then what lies shallowest; the choice is said."""
    for place in (f"clone/phase99_toy/{NAME}", f"clone/my/{NAME}", "project99"):
        (tmp_path / "ada" / place).mkdir(parents=True)
        (tmp_path / "ada" / place / "toy.py").write_text(place)
    remarks = gather(tmp_path / "ada", [NAME], tmp_path / "out")
    assert (tmp_path / "out" / NAME / "toy.py").read_text() == f"clone/my/{NAME}"
    assert remarks == [f"{NAME} is there 3 times; clone/my/{NAME} was graded"]


def test_a_folder_with_a_zip_in_it(tmp_path):
    (tmp_path / "ada_123_file").mkdir()
    zipped(tmp_path / "ada_123_file/home.zip", **{f"{NAME}/toy.py": "x = 1"})
    assert gather(tmp_path / "ada_123_file", [NAME], tmp_path / "out") == []
    assert (tmp_path / "out" / NAME / "toy.py").read_text() == "x = 1"


def test_a_zip_writes_nowhere_else(tmp_path):
    """Climbing names, links, bombs and files of other kinds stay where they are."""
    link = zipfile.ZipInfo(f"x/{NAME}/link.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"../../{NAME}/../../up.py", "x")
        file.writestr(f"../{NAME}/toy.py", "up")
        file.writestr(f"x/{NAME}/toy.py", "y = 1")
        file.writestr(link, "/etc/passwd")
        file.writestr(f"x/{NAME}/bomb.py", b"0" * 50_000_000)
        file.writestr(f"x/{NAME}/a b.py", "z")
    remarks = gather(tmp_path / "evil.zip", [NAME], tmp_path / "out/deep")
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py"))
    assert written == [f"out/deep/{NAME}/toy.py"] and len(remarks) == 2
    assert (tmp_path / written[0]).read_text() == "y = 1"


def test_links_of_a_folder_are_not_followed(tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text("secret")
    (tmp_path / "ada" / NAME).mkdir(parents=True)
    (tmp_path / "ada" / NAME / "toy.py").symlink_to(secret)
    assert gather(tmp_path / "ada", [NAME], tmp_path / "out") == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("when", "days", "left"), [
    ("2026-11-30T23:00+01:00", 0, 1.0), ("2026-11-30T23:14+00:00", 0, 1.0),
    ("2026-11-30T23:16+00:00", 1, 0.9), ("2026-12-02T22:58+00:00", 2, 0.8),
    ("2026-12-05T22:59+00:00", 5, 0.5), ("2026-12-05T23:00+00:00", 6, 0.0),
])  # fmt: skip
def test_late(when, days, left):
    """Due at 22:59 UTC, with a quarter of an hour of grace; a day begun is a day; after five nothing."""
    terms = Assignment(due="2026-11-30T23:59+01:00")
    assert terms.late(datetime.fromisoformat(when)) == (days, pytest.approx(left))
    assert Assignment().late(datetime.fromisoformat(when)) == (0, 1.0)


def test_terms_are_checked(tmp_path):
    path = tmp_path / "assignment.json"
    for table, words in (({"deu": "x"}, "deu means nothing here"), ({"due": "soon"}, "is no date"),
                         ({"weights": {"10": -1}}, "numbers from 0 up"), ([], "json: ")):  # fmt: skip
        path.write_text(json.dumps(table))
        with pytest.raises(UserError, match=words):
            submissions.assignment(path, required=False)
    path.write_text('{"projects": [10, 11], "weights": {"11": 3}}')
    found = submissions.assignment(path, required=True)
    assert found.projects == (10, 11) and (found.weight(10), found.weight(11)) == (1.0, 3.0)


def test_students_come_from_the_list_and_the_folder(tmp_path):
    (tmp_path / "ada").mkdir()
    (tmp_path / "students.csv").write_text("\ufeffstudent,submitted\nbob,\n", encoding="utf-8")
    found = submissions.submissions(tmp_path)
    assert [(one.student, one.path is None) for one in found] == [("ada", False), ("bob", True)]
    zipped(tmp_path / "ada.zip")
    with pytest.raises(UserError, match=r"which is ada's\? Move one away"):
        submissions.submissions(tmp_path)


# ---- what a file says before it runs


def changed(old, new):
    assert old in REFERENCE.decode()
    return REFERENCE.decode().replace(old, new).encode()


@pytest.mark.parametrize(("old", "new", "words"), [
    ("@dataclass(f", "import torch\ntorch.testing.allclose = 1\n@dataclass(f", "sets torch.testing.allclose"),
    ("@dataclass(f", "from x import GPT\nGPT.forward = None\n@dataclass(f", "sets GPT.forward"),
    ("class Counter:", "naive = len\nclass Counter:", "gives naive another meaning"),
    ("class Counter:", "from x import y as naive\nclass Counter:", "gives naive another meaning"),
    ("class Counter:", "for naive in []: pass\nclass Counter:", "gives naive another meaning"),
    ("class Counter:", "def naive(n): return n\nclass Counter:", "naive is there twice"),
    ("    value: int", "    value: int\n    def __eq__(self, other): return True", "defines __eq__"),
    ("    total, sums = 0, []", "    global naive\n    total, sums = 0, []", "takes naive to set it anew"),
])  # fmt: skip
def test_what_no_solution_does(old, new, words):
    assert words in "; ".join(reading.charges(changed(old, new), REFERENCE))
    assert reading.charges(REFERENCE, REFERENCE) == []


def test_what_was_handed_out_is_put_back():
    """Also a method; functions of one's own, and the exercises, stay."""
    mine = changed("sum(numbers[: n + 1])", "0").replace(b"self.seen = 0", b"self.seen = 7")
    mine = mine.replace(b"class Counter:", b"def helper():\n    return 1\n\n\nclass Counter:")
    mine = mine.replace(b"total += number", b"total += 2")
    source, names = reading.restored(mine, REFERENCE)
    assert names == ["naive", "Counter.__init__"]
    assert source == mine.replace(b"[0 for", b"[sum(numbers[: n + 1]) for").replace(b"seen = 7", b"seen = 0")
    assert reading.restored(REFERENCE, REFERENCE) == (REFERENCE, [])
    with pytest.raises(ValueError, match="its decorators are not those handed out"):
        reading.restored(changed("def naive", "@print\ndef naive"), REFERENCE)


def test_what_a_person_should_look_at():
    mine = changed(
        "    total, sums = 0, []", "    import gc\n    total, sums = 0, []\n    getattr(gc, '__globals__')"
    )
    assert reading.looks(mine, REFERENCE) == ["line 23: gc", "line 25: __globals__"]
    assert reading.looks(REFERENCE, REFERENCE) == []
    limit = changed("class Counter:", "LIMIT = 3\nclass Counter:")
    assert reading.looks(limit.replace(b"3", b"4"), limit) == ["LIMIT is not as handed out"]


def test_a_copy_of_ours_is_seen_whatever_its_layout():
    mine = changed("total += number  # only one addition for each number", "total  +=  number")
    assert "running_sum" in reading.word_for_word(mine, REFERENCE, 30)
    other = changed("total += number", "total -= number")
    assert "running_sum" not in reading.word_for_word(other, REFERENCE, 30)
    assert reading.word_for_word(mine, REFERENCE) == [], "in a few words there is one way to say it"
