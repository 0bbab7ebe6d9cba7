"""The rounds: guess, check in one forward, keep, go back; for texts that stand at different places.

Came before: the rule (`speculative`), which knows shares and no model. New here: the forward that checks, for
rows at different positions, and the rollback, which is nothing but a smaller `held`. Where all rows of a
batch must be equally long this is the hard part; with addresses there is nothing to realign.

Seam: the contract, `model.hidden(tokens, positions=(B, T), caches=…, mask=…)` with addressed caches.
Leviathan, Kalman, Matias 2022, 2211.17192, algorithm 1; several rows: Zhang et al. 2025, 2510.22876.
"""

import torch

from common.errors import demand
from common.exercise import exercise
from common.generate import Row
from phase03_core_inference.project08_kv_cache.kv_cache import check_room

# ---- one forward over rows that stand at different places ----


class Rows:
    """Some rows of a `StaticCache`, up to the longest of them, for one forward. It holds nothing itself."""

    def __init__(self, cache, rows, longest):
        self.cache, self.rows, self.longest = cache, rows, longest

    def update(self, k, v, positions):
        """Write k and v (R, K, T, D) at positions (R, T) of the rows; return (R, K, longest, D) of each."""
        due = k.size(0), k.size(2)
        demand(positions.shape == due, f"rows take positions {due}, not {tuple(positions.shape)}")
        at = torch.tensor(self.rows, device=k.device)
        self.cache.k[at[:, None], :, positions] = k.transpose(1, 2)  # (R, T, K, D)
        self.cache.v[at[:, None], :, positions] = v.transpose(1, 2)
        first, R = self.rows[0], len(self.rows)
        if self.rows == list(range(first, first + R)):
            at = slice(first, first + R)  # neighbours: a view, nothing is copied
        return self.cache.k[at, :, : self.longest], self.cache.v[at, :, : self.longest]


def feed(model, caches, work):
    """What the model makes of [(row, start, ids)]: hidden (R, T, C); row's ids stand from position start on.

    Short rows are padded on the right by their last id at its own place, which changes nothing.
    """
    T, device = max(len(ids) for _, _, ids in work), model.embed.weight.device
    tokens = torch.tensor([ids + ids[-1:] * (T - len(ids)) for _, _, ids in work], device=device)  # (R, T)
    ends = torch.tensor([[start + len(ids) - 1] for _, start, ids in work], device=device)  # (R, 1)
    starts = torch.tensor([[start] for _, start, _ in work], device=device)
    positions = torch.minimum(starts + torch.arange(T, device=device), ends)  # (R, T)
    longest = max(start + len(ids) for _, start, ids in work)
    mask = (torch.arange(longest, device=device) <= positions[..., None])[:, None]  # (R, 1, T, longest)
    views = [Rows(cache, [row for row, _, _ in work], longest) for cache in caches]
    return model.hidden(tokens, positions=positions, caches=views, mask=mask)


# ---- the rounds ----


class Text:
    """A text being written: ids, of which `held` have true keys in the model's cache. row: when it ends.

    Project 12's Sequence has the same names, so that a draft serves its engine as well.
    """

    def __init__(self, id, ids, sampling, model, *, tokenizer=None, eos_ids=()):
        check_room(model, len(ids), sampling.max_tokens)
        self.id, self.ids, self.n_prompt, self.sampling = id, list(ids), len(ids), sampling
        self.row = Row(id, sampling, sampling.max_tokens, tokenizer, eos_ids)
        self.held, self.guesses = 0, []

    @property
    def n_new(self):
        """How many ids were drawn."""
        return len(self.ids) - self.n_prompt

    @property
    def new(self):
        """The ids that were drawn."""
        return self.ids[self.n_prompt :]


@exercise
@torch.no_grad()
def play(model, caches, draft, texts):
    """One round: guess, check in one forward, keep. Returns how many ids each text took.

    texts: none has ended; text.id is its row of the addressed caches. First `draft.propose`; a text that may
    still take `row.left` ids gets left - 1 guesses at most. Then one forward of what each has not `held` and
    its guesses, the first of which is fed at position `held` (see `feed`), and from the G + 1 logits that
    follow the last id and each guess, `draft.verify`. Each id of the verdict goes to `ids` and to
    `row.push(id, None)`, up to the one at which the row says finish. Afterwards `held` counts the ids with
    true keys, all but the last, and no guess is left. The draft is told: `note`, the hidden state before the
    last id taken; `close`, of a text that ended.
    """
    draft.propose(texts)
    for text in texts:
        text.guesses = text.guesses[: text.row.left - 1]
    work = [(text.id, text.held, text.ids[text.held :] + text.guesses) for text in texts]
    hidden, taken = feed(model, caches, work), []  # (R, T, C)
    for x, text, (_, _, fed) in zip(hidden, texts, work, strict=True):
        own = x[len(fed) - 1 - len(text.guesses) : len(fed)]  # (G + 1, C)
        known = len(text.ids)
        for id in draft.verify(text, model.head(own)):
            text.ids.append(id)
            text.row.push(id, None)
            if text.row.finish:
                break
        taken.append(len(text.ids) - known)
        text.held, text.guesses = len(text.ids) - 1, []  # whatever stands behind is overwritten: the rollback
        draft.close(text.id) if text.row.finish else draft.note(text, own[taken[-1] - 1])
    return taken


def speculate(model, texts, draft, caches):
    """Write all texts to their ends; for each round how many ids each text took, {id: n}, as it is played."""
    demand(len({text.id for text in texts}) == len(texts), "two texts of one id would share a row")
    while live := [text for text in texts if text.row.finish is None]:
        yield dict(zip([text.id for text in live], play(model, caches, draft, live), strict=True))
