"""Whole files or none: everything is written under a temporary name beside its target, and renamed when
complete."""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path):
    """A temporary path to write to: renamed to `path` when the block ends, removed when it raises. Makes
    the folder.

        with whole_file("a/b.png") as part:
            figure.savefig(part)

    The temporary name keeps the suffix of `path`, by which many writers choose the format. OSError (a full
    disk) goes up, and `path` then holds what it held before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(part)
        os.chmod(part, 0o666 & ~umask())  # mkstemp makes files that only their owner may read
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def umask():
    """The process's mask of new files, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path, text):
    """Write a text file in UTF-8, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path, value):
    """Write JSON, indented, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
