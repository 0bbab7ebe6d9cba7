"""common.files: a file is whole or it is not there."""

import json
import stat

import pytest

from common.files import umask, whole_file, write_json, write_text


def test_writes_and_makes_the_folder(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"é": [1, 2.5]})
    assert json.loads((tmp_path / "a" / "b.json").read_text("utf-8")) == {"é": [1, 2.5]}
    assert b"\r\n" not in (tmp_path / "a" / "b.json").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "f.txt", "old")
    with pytest.raises(OSError, match="No space"), whole_file(tmp_path / "f.txt") as part:
        part.write_text("half of the new")
        raise OSError(28, "No space left on device")
    assert (tmp_path / "f.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def test_keeps_the_suffix_and_the_usual_permissions(tmp_path):
    with whole_file(tmp_path / "p.png") as part:
        assert part.suffix == ".png"
        part.write_bytes(b"x")
    assert stat.S_IMODE((tmp_path / "p.png").stat().st_mode) == 0o666 & ~umask()
