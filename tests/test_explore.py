"""What every explore.py shares."""

import time
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from common.cli import explore
from common.errors import UserError


class Lab(explore.Album):
    def __init__(self, folder, parts=(), publish=False):
        (folder / "results").mkdir()
        self.said = []
        run = SimpleNamespace(folder=folder, project=folder, say=self.said.append, device=torch.device("cpu"))
        super().__init__(SimpleNamespace(parts=parts, publish=publish), run)


def test_a_part_that_does_not_exist_is_refused_with_those_that_do():
    explore.known(("a",), {"a": None, "b": None})
    with pytest.raises(UserError, match="no part is called x, z: there are a, b"):
        explore.known(("z", "a", "x"), {"a": None, "b": None})


def test_the_parts_are_done_in_the_order_asked_and_their_figures_kept_apart(tmp_path):
    def first(lab):
        """The first one.

        Not said.
        """
        return {"loss": 1.0}

    def second(lab):
        """The second one."""
        return {"loss": 2.0}

    lab = Lab(tmp_path, parts=("second", "first"))
    found = explore.each(lab, {"first": first, "second": second, "third": None})
    assert list(found.items()) == [("second: loss", 2.0), ("first: loss", 1.0)]
    assert lab.said == ["\nsecond: The second one.", "\nfirst: The first one."]


@pytest.mark.parametrize("publish", [False, True])
def test_a_picture_lies_in_the_runs_folder_and_in_results_only_if_asked(tmp_path, publish):
    lab = Lab(tmp_path, publish=publish)
    lab.save(Figure(figsize=(1, 1)), "one.png")
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "results" / "one.png").exists() is publish
    assert lab.said == [f"  picture: {tmp_path / 'one.png'}"]


def test_each_training_has_an_empty_folder_also_after_one_was_broken_off(tmp_path):
    left = tmp_path / "runs" / "1"
    left.mkdir(parents=True)
    (left / "last.safetensors").write_bytes(b"half")
    lab = Lab(tmp_path)
    assert lab.training_folder() == left and not left.exists()
    assert lab.training_folder() == tmp_path / "runs" / "2"


def test_a_call_is_timed_by_its_shortest_run_after_one_that_warms_up(tmp_path):
    waits = [0.2, 0.03, 0.001, 0.05]
    assert 0.001 <= Lab(tmp_path).seconds(lambda: time.sleep(waits.pop(0)), repeats=3) < 0.03 and not waits
