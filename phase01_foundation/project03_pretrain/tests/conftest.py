"""What the tests of this project share: a place of their own, with a text in it."""

import numpy as np
import pytest

from phase01_foundation.project03_pretrain import train

WORDS = "the cat and a dog sat on one mat near this old mill while rain fell".split()  # noqa: SIM905


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place of its own for runs, models and cache, and in it a text; evaluations look at little of it."""
    monkeypatch.setenv("THIRTY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "EVALUATED", 1024)
    draw = np.random.default_rng(0)
    lines = (" ".join(draw.choice(WORDS, 12)) + ".\n" for _ in range(2500))
    (tmp_path / "own.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path
