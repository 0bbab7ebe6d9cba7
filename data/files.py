"""Reading a corpus's files, and writing files whole or not at all."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import UserError


def pieces(file: Path) -> Iterator[str]:
    """The text of one file, in pieces; UserError where it is not text."""
    if file.suffix == ".parquet":
        for row in records(file):
            yield row["text"]
        return
    with file.open(encoding="utf-8") as source:
        try:
            while piece := source.read(1 << 20):
                yield piece
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from error


def records(file: Path) -> Iterator[dict]:
    """The rows of one JSON or Parquet file; UserError where it is not one."""
    if file.suffix == ".json":
        try:
            yield from json.loads(file.read_text(encoding="utf-8"))
            return
        except ValueError as error:
            raise UserError(f"{file} is not JSON ({error}): replace it") from error
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{file.name} is Parquet, which pyarrow reads: install the extra `hub`") from error
    for batch in parquet.ParquetFile(file).iter_batches():
        yield from batch.to_pylist()


def write(target: Path, texts: Iterable[str]) -> Path:
    """Write text, whole or not at all."""
    with whole(target) as file:
        file.writelines(text.encode("utf-8") for text in texts)
    return target


@contextlib.contextmanager
def whole(target: Path) -> Iterator[BinaryIO]:
    """A file to write to, under a temporary name in the same folder, and renamed at the end if all went well.

    UserError where the folder or the disk refuses.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {target} ({error.strerror or error}): make room there, or choose "
                        "another folder by THIRTY_HOME") from error
    finally:
        if temporary.exists():
            temporary.unlink()


def digest(file: Path) -> str:
    """The sha256 of a file of any size, in hexadecimal."""
    state = hashlib.sha256()
    with file.open("rb") as source:
        while block := source.read(1 << 20):
            state.update(block)
    return state.hexdigest()
