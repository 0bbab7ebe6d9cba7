"""One forward over rows of different lengths, at different places of different texts.

Came before: `decode_ragged` of project 8 pads all prompts to the longest, and later feeds one token a row.
New here: some rows feed one token and some a chunk, in the same forward.

Seam: the contract, positions (B, T) for addressed caches.
"""

from dataclasses import dataclass

import torch

from common.exercise import exercise
from common.generate import draw, report, sample

PADDING = 64  # a forward costs something however little it is fed: on two cores as much as so many tokens


@dataclass(frozen=True)
class Step:
    """One forward. ids: of the sequences, a row each; ns: how many of a row's tokens are its own.

    tokens and positions (B, T); longest: the highest position, and 1.
    """

    ids: tuple[int, ...]
    ns: tuple[int, ...]
    tokens: torch.Tensor
    positions: torch.Tensor
    longest: int


def forwards(work):
    """[(sequence, n)] in parts that share a forward: their padding is at most PADDING tokens in all."""
    parts = []
    for sequence, n in sorted(work, key=lambda pair: pair[1]):
        if not parts or sum(n - own for _, own in parts[-1]) > PADDING:
            parts.append([])
        parts[-1].append((sequence, n))
    return parts


@exercise
def ragged(part, device=None):
    """A Step of [(sequence, n)]: row b holds the n tokens that its sequence feeds next, at their positions.

    Short rows are padded on the right by their own last token at its own position, again: it writes what
    stands there anyway, reaches nobody else, and the last column is every row's last token.
    """
    T = max(n for _, n in part)
    tokens, positions = [], []
    for sequence, n in part:
        fed, start = sequence.feed(n), sequence.computed
        tokens.append(fed + fed[-1:] * (T - n))
        positions.append([*range(start, start + n)] + [start + n - 1] * (T - n))
    longest = 1 + max(row[-1] for row in positions)
    ids, ns = zip(*((sequence.id, n) for sequence, n in part), strict=True)
    return Step(ids, ns, torch.tensor(tokens, device=device), torch.tensor(positions, device=device), longest)


def draw_rows(logits, sequences):
    """The next id of each sequence, from its row of logits (R, V): (ids, a TokenLogprob or None for each).

    The draw depends on the sequence's own row, seed and number of ids: not on who else is here.
    """
    samplings = [one.sampling for one in sequences]
    draws = torch.tensor([draw(one.row.seed, one.n_new) for one in sequences], dtype=torch.float64)
    seen = None
    if any(one.repetition_penalty != 1 for one in samplings):
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for row, one in enumerate(sequences):
            seen[row, one.ids] = True
    ids = sample(logits, samplings, draws, seen=seen)
    return ids.tolist(), report(logits, ids, samplings)
