"""TinyTown's pages as bytes, for many ranks: a token file that one writes and all read, batches by row.

Each byte is a token. Ranks that share a model read the same rows; each data-parallel row of ranks reads rows
of its own, and what is learned and judged is the same for any number of them.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from common.process import on_first
from data import loader
from data.tinytown import TinyTown

LEARN, HELD = 1, 2  # streams of pages: one to train on, one to judge by
JUDGED = 8  # batches of unseen pages


def pages(stream: int, least: int, end: bytes = b"\n") -> list[np.ndarray]:
    """Pages until they have more than `least` bytes, an end behind each; uint8."""
    found = []
    for page in TinyTown().pages(stream):
        found.append(np.frombuffer(page.encode() + end, dtype=np.uint8))
        least -= len(found[-1])
        if least < 0:
            return found


def text(folder: Path, stream: int, tokens: int) -> loader.TokenFile:
    """More than so many bytes of a stream as a token file, written by the first rank."""
    path = folder / f"town-{stream}-{tokens}.bin"

    def write():
        loader.write(path, pages(stream, tokens), vocab_size=256, tokenizer="bytes")

    on_first(lambda: path.exists() or write())
    return loader.read(path)


def batches(steps: int, batch_size: int, context: int) -> torch.Tensor:
    """All batches of a small training, one after the other, in memory: (steps, batch_size, context + 1)."""
    need = steps * batch_size * (context + 1)
    ids = torch.from_numpy(np.concatenate(pages(LEARN, need, end=b""))[:need].astype(np.int64))
    return ids.view(steps, batch_size, context + 1)


class Rows:
    """What one of several rows of ranks reads: (inputs, targets), each (batch_size / rows, context).

    config: has batch_size, of all rows together, context, steps and seed.
    """

    def __init__(self, config, folder: Path, row: int, rows: int, device: torch.device):
        self.seed, self.row, self.rows, self.device = config.seed, row, rows, device
        self.size = {"batch_size": config.batch_size // rows, "context": config.context}
        update = config.batch_size * config.context
        self.learn = text(folder, LEARN, min(4_000_000, config.steps * update) + 1000)
        self.held = text(folder, HELD, (JUDGED + 1) * update)

    def batch_at(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of update i: a pure function of i and the row."""
        return self.there(self.learn.batch(self.seed, i, self.row, self.rows, **self.size))

    def judged(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Unseen pages, the same for all rows."""
        return map(self.there, islice(self.held.sweep(**self.size), JUDGED))

    def there(self, batch):
        """A batch on the device."""
        return tuple(x.to(self.device) for x in batch)
