"""Where things are: the repository, and what it downloads, trains and lets a learner write.

ROOT is the parent of `common`; inside a shadow tree that is the shadow's root, and `launch` passes
THIRTY_HOME and THIRTY_MY on, so that models and the learner's files stay where they were.
"""
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """What is downloaded or trained lies here: $THIRTY_HOME, or the repository's `data`."""
    return Path(os.environ.get("THIRTY_HOME") or ROOT / "data").expanduser().resolve()


def models() -> Path:
    """Finished model folders."""
    return home() / "models"


def cache() -> Path:
    """Downloaded corpora."""
    return home() / "cache"


def runs() -> Path:
    """One folder for each run: `runs()/project01_minimal_gpt/cpu`."""
    return home() / "runs"


def my() -> Path:
    """The learner's own files: $THIRTY_MY, or the repository's `my`."""
    return Path(os.environ.get("THIRTY_MY") or ROOT / "my").expanduser().resolve()
