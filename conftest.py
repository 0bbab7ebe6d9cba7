"""A test that needs what is not here is skipped, and the reason says what is missing."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: a second thread only costs time
os.environ["THIRTY_OFFLINE"] = "1"  # nothing is downloaded in a test, nor by the processes that a test starts


def pytest_collection_modifyitems(items):
    for marker, reason in (("needs_data", no_data()), ("gpu", no_gpu(items))):
        for item in items:
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def no_data():
    """Why the tests on real corpora cannot run, or None."""
    folder = os.environ.get("THIRTY_DATA")
    if not folder:
        return "THIRTY_DATA is not set"
    return None if Path(folder).is_dir() else f"THIRTY_DATA names no folder: {folder}"


def no_gpu(items):
    """Why the tests on a GPU cannot run, or None; torch is asked only if there are any."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return None
    import torch
    return None if torch.cuda.is_available() else "no CUDA device"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place of its own for what a script finds and writes: models, runs."""
    monkeypatch.setenv("THIRTY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
