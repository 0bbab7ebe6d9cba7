"""Token files, and batches that are a pure function of (seed, step, rank).

A token file is a flat array of little-endian uint16 (uint32 from 65,537 ids on), mapped and never read whole,
with a JSON sidecar that names the tokenizer by its hash. An epoch cuts it into windows of `context` tokens at
a random offset and reads them in a random order, each once. Both come from the seed and the epoch's number by
arithmetic, and nothing is stored: so resume is exact, ranks never overlap within an epoch, any number of
workers gives the same batches, and one process sees the global batches that several would.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common.errors import UserError
from data.files import whole

ROUNDS = 8  # of the Feistel network; four make it random, the rest is for files of a handful of windows


@dataclass(frozen=True)
class TokenFile:
    """A token file that was checked when it was opened: `read` one, or `write` one."""

    path: Path
    n_tokens: int
    vocab_size: int
    tokenizer: str
    """Hash of the tokenizer whose ids these are."""
    dtype: str

    @property
    def tokens(self) -> np.ndarray:
        """All tokens, (n_tokens,). Mapped anew each time: a mapping kept open holds on to every page read."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.n_tokens,))

    def batch(self, seed: int, step: int, rank: int = 0, world: int = 1, *, batch_size: int, context: int):
        """Inputs and targets of one rank's step, int64 (B, T) each. `batch_size` is that of one rank.

        UserError where the file is shorter than one window.
        """
        first = (step * world + rank) * batch_size
        starts = window_starts(self.n_tokens, context, seed, np.arange(first, first + batch_size))
        return self.windows(starts, context)

    def sweep(self, *, batch_size: int, context: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The file in order, each token but the first a target once; the last window may be shorter."""
        end = (self.n_tokens - 1) // context * context
        starts = np.arange(0, end, context)
        for i in range(0, len(starts), batch_size):
            yield self.windows(starts[i : i + batch_size], context)
        if end < self.n_tokens - 1:
            yield self.windows(np.array([end]), self.n_tokens - 1 - end)

    def windows(self, starts: np.ndarray, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The windows at these places as inputs and targets, int64 (B, T) each."""
        rows = self.tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)  # (B, T + 1)
        rows = torch.from_numpy(rows)
        return rows[:, :-1], rows[:, 1:]


def window_starts(n_tokens: int, context: int, seed: int, indices: np.ndarray) -> np.ndarray:
    """Where the windows of these running numbers begin, int64 (B,). Window i is number i % n of epoch i // n.

    n leaves one window's room for the random offset, so an epoch reads all but at most 2 * context tokens.
    """
    if n_tokens <= context:
        raise UserError(f"the text has {n_tokens:,} tokens, too few for one context of {context:,} and the "
                        "token after it: take a longer text or a shorter context")
    n = max(1, (n_tokens - 1) // context - 1)
    room = min(context - 1, n_tokens - 1 - n * context)
    starts = np.empty(len(indices), dtype=np.int64)
    for epoch in np.unique(indices // n):
        here = indices // n == epoch
        offset, *keys = np.random.SeedSequence([seed, int(epoch)]).generate_state(1 + ROUNDS, np.uint64)
        places = shuffle(indices[here] % n, n, keys).astype(np.int64)
        starts[here] = places * context + int(offset) % (room + 1)
    return starts


def shuffle(indices: np.ndarray, n: int, keys: list[np.uint64]) -> np.ndarray:
    """Where a random permutation of range(n) sends these indices, uint64, without making the permutation.

    A Feistel network permutes the numbers of an even count of bits; what falls outside range(n) goes through
    it again until it falls inside (cycle walking, Black and Rogaway 2002): at most four times on average.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))  # bits of each half
    mask = np.uint64((1 << int(half)) - 1)
    values = indices.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for key in keys:
            left, right = right, left ^ (scramble(right ^ key) & mask)
        values[outside] = left << half | right
        outside = values >= n
    return values


def scramble(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): each bit of x changes half of them."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


@dataclass(frozen=True)
class Batches(Dataset):
    """The batches of steps `start` to `stop` as a map-style dataset; small, so that it travels to workers."""

    file: TokenFile
    seed: int
    batch_size: int
    context: int
    start: int
    stop: int
    rank: int
    world: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.file.batch(self.seed, self.start + i, self.rank, self.world,
                               batch_size=self.batch_size, context=self.context)


def loader(file: TokenFile, *, seed: int, batch_size: int, context: int, stop: int, start: int = 0,
           rank: int = 0, world: int = 1, workers: int = 0) -> DataLoader:
    """The batches of steps `start` to `stop` in order, prefetched by `workers` processes, pinned for CUDA."""
    batches = Batches(file, seed, batch_size, context, start, stop, rank, world)
    return DataLoader(batches, batch_size=None, shuffle=False, num_workers=workers,
                      pin_memory=torch.cuda.is_available())


def write(path: Path, sequences: Iterable[Iterable[int]], *, vocab_size: int, tokenizer: str) -> TokenFile:
    """Append the ids of all sequences to a new token file; memory holds one sequence at a time.

    The sidecar is written last, so a file that was cut short is never read. UserError: no tokens at all, or
    an id outside the vocabulary; then there is no file.
    """
    path, dtype = Path(path), "<u2" if vocab_size <= 1 << 16 else "<u4"
    with whole(path) as file:
        for ids in sequences:
            file.write(checked(ids, vocab_size, path).astype(dtype).tobytes())
        n_tokens = file.tell() // np.dtype(dtype).itemsize
        if n_tokens == 0:
            raise UserError(f"{path.name} would be empty: this split has no text; give it more of the corpus")
        sidecar(path).unlink(missing_ok=True)  # until here, an older file of this name stays readable
    about = {"n_tokens": n_tokens, "vocab_size": vocab_size, "tokenizer": tokenizer, "dtype": dtype}
    with whole(sidecar(path)) as file:
        file.write(json.dumps(about, indent=2).encode())
    return TokenFile(path, **about)


def checked(ids: Iterable[int], vocab_size: int, path: Path) -> np.ndarray:
    """The ids as int64; UserError where one lies outside the vocabulary."""
    array = np.asarray(ids if isinstance(ids, np.ndarray | list) else list(ids), dtype=np.int64)
    if array.size and not 0 <= array.min() <= array.max() < vocab_size:
        wrong = array[(array < 0) | (array >= vocab_size)][0]
        raise UserError(f"{path.name}: token id {wrong} is outside the vocabulary of {vocab_size:,}; "
                        "encode with the tokenizer that the file is written for")
    return array


def read(path: Path, *, tokenizer: str | None = None) -> TokenFile:
    """Open a token file. UserError: absent, cut short, or of another tokenizer than the hash says."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no token file {path}: tokenize the corpus first")
    try:
        file = TokenFile(path, **json.loads(sidecar(path).read_text(encoding="utf-8")))
        complete = file.n_tokens * np.dtype(file.dtype).itemsize == path.stat().st_size > 0
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} has no readable sidecar beside it ({error}): tokenize again") from error
    if not complete:
        raise UserError(f"{path} is not the {file.n_tokens:,} tokens that its sidecar says: tokenize again")
    if tokenizer not in (None, file.tokenizer):
        raise UserError(f"{path} was made by another tokenizer ({file.tokenizer[:12]}, "
                        f"not {tokenizer[:12]}): tokenize the corpus again with this one")
    return file


def sidecar(path: Path) -> Path:
    """The JSON file beside a token file."""
    return path.with_name(path.name + ".json")
