"""Self-speculation: the first blocks guess, all of them check, and nothing is computed twice.

Came before: project 11, where a second model guesses; and `kv_fill`, which leaves early and may be wrong. New
here: leave early for K tokens, then climb the rest of the way with all of them at once, and keep what the top
says too. The text is the full model's, whatever the way out is worth. The draft needs no weights of its own,
and no cache: its keys are those of the model's first blocks, which the check would compute just the same.

Reused as they are: project 11's `play`, which feeds, keeps and goes back, and the rule that keeps guesses.
Seam: the contract; `play` asks its model for `hidden`, and gets ours, which begins where the draft ended.
Elhoushi et al. 2024, 2404.16710 (LayerSkip); Zhang et al. 2023, 2309.08168; Zhao et al. 2025, 2502.14856
(FR-Spec: a draft needs only the frequent ids).
"""

import torch
import torch.nn.functional as F

from common.errors import demand
from common.exercise import exercise
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for
from phase04_advanced_inference.project11_speculative_decoding.drafts import ModelDraft, may_guess
from phase04_advanced_inference.project11_speculative_decoding.rounds import feed, speculate

from .exits import exit_logits


def frequent(ids, count):
    """The `count` ids that occur most often among ids (N,), rising; all that occur, where those are fewer."""
    found, times = ids.unique(return_counts=True)
    most = times.argsort(descending=True, stable=True)[:count]
    return found[most].sort().values


class Lower:
    """The first n blocks, their way out, and its head, as project 11 sees a draft model; no weights of its
    own.

    ids (M,): the only ones that its head knows, rising; None: all. The others have no chance.
    """

    def __init__(self, model, n, ids=None):
        self.model, self.n, self.ids = model, n, ids
        self.config, self.embed, self.blocks = model.config, model.embed, model.blocks[:n]
        self.weight = (
            None if ids is None else model.head.weight[ids].contiguous()
        )  # (M, C): a copy, for speed

    def hidden(self, tokens, *, positions, caches, mask=None):
        """States (B, T, C) after n blocks."""
        where = {"positions": positions, "mask": mask}
        return climb(
            self.blocks, self.embed(tokens, positions), caches, rope=self.model.rope(positions), **where
        )

    def head(self, x):
        """(..., C) -> (..., V)"""
        if self.ids is None:
            return exit_logits(self.model, self.n, x)
        x = self.model.norm(x + self.model.exits.translate[str(self.n)](x))
        few = F.linear(x, self.weight)  # (..., M)
        all_ids = few.new_full((*few.shape[:-1], self.config.vocab_size), -torch.inf)
        return all_ids.index_copy_(-1, self.ids, few)


def climb(blocks, x, caches, **where):
    """x (B, T, C) through some blocks, each with its cache."""
    for block, cache in zip(blocks, caches, strict=True):
        x = block(x, cache=cache, **where)
    return x


class EarlyDraft(ModelDraft):
    """Guesses K tokens a round after n blocks of the model itself, in the model's own caches.

    caches: the addressed ones that `play` gets, whose row a text's id is. ids: see `Lower`.
    states: {text's id: (n_known, C)}, what stands at positions held, held + 1, … after n blocks.
    """

    def __init__(self, model, n, K, caches, ids=None):
        super(ModelDraft, self).__init__()  # no model and no caches of its own
        demand(n in model.exits.layers, f"there is no way out after {n} blocks: {list(model.exits.layers)}")
        demand(K >= 1, f"{K} guesses a round: at least 1")
        self.model, self.n, self.K, self.caches, self.states = Lower(model, n, ids), n, K, caches[:n], {}

    @exercise
    @torch.no_grad()
    def propose(self, texts):
        """Set each text's guesses (see `may_guess` and `guess`), and keep the states that were made on the
        way.

        First the first blocks are fed what each text has not `held`, from that position on; then the guess of
        each, one position further, until all have theirs. The last guess is not fed. A text that may not
        guess is not fed either, and has no states.
        """
        going, self.states = may_guess(texts, self.K), {}
        wanted = {text.id: n for text, n in going}
        self.q = {text.id: [] for text, _ in going}
        for text, _ in going:
            text.guesses = []
        work = [(text.id, text.held, text.ids[text.held :]) for text, _ in going]
        texts = [text for text, _ in going]
        while texts:
            x = feed(self.model, self.caches, work)  # (R, T, C)
            for row, (id, _, fed) in zip(x, work, strict=True):
                self.states.setdefault(id, []).append(row[: len(fed)])
            last = x[range(len(work)), [len(fed) - 1 for _, _, fed in work]]  # (R, C)
            self.guess(texts, self.model.head(last))
            work = [(text.id, start + len(fed), text.guesses[-1:])
                    for text, (_, start, fed) in zip(texts, work, strict=True)]  # fmt: skip
            more = [i for i, text in enumerate(texts) if len(text.guesses) < wanted[text.id]]
            texts, work = [texts[i] for i in more], [work[i] for i in more]
        self.states = {id: torch.cat(rows) for id, rows in self.states.items()}
        self.q = {id: torch.stack(q) for id, q in self.q.items() if q}  # where chance made the guesses

    def close(self, id):
        """A text has ended."""
        self.q.pop(id, None)
        self.states.pop(id, None)


class Resumed:
    """The model as `play` sees it; its first blocks compute only what the draft did not."""

    def __init__(self, model, draft):
        self.model, self.draft = model, draft
        self.config, self.embed, self.blocks, self.head = model.config, model.embed, model.blocks, model.head

    @exercise
    def hidden(self, tokens, *, positions, caches, mask):
        """What the model makes of tokens (R, T) at positions (R, T): (R, T, C), normed, for the head.

        caches: some rows of an addressed cache for each block; `caches[0].rows` are the texts' ids. The
        states of the draft (which begin at each row's first position) are taken over for as many columns as
        every row has states for; only the others are embedded and climb the first blocks. Then all climb the
        rest.
        """
        model, n = self.model, self.draft.n
        states = [self.draft.states.get(row, ()) for row in caches[0].rows]
        known = min(map(len, states))
        where = {"positions": positions[:, known:], "mask": mask[:, :, known:]}
        x = model.embed(tokens[:, known:], where["positions"])
        x = climb(model.blocks[:n], x, caches[:n], rope=model.rope(where["positions"]), **where)
        if known:
            x = torch.cat((torch.stack([row[:known] for row in states]), x), 1)  # (R, T, C)
        where = {"positions": positions, "mask": mask}
        return model.norm(climb(model.blocks[n:], x, caches[n:], rope=model.rope(positions), **where))


def self_speculate(model, texts, n, K, ids=None, size=None):
    """Write all texts to their ends; for each round how many ids each text took, {id: n}, as it is played.

    texts: project 11's `Text`s, whose ids are 0, 1, …; the model leaves after n blocks to guess K ids a
    round.
    """
    size = size or max(len(text.ids) + text.sampling.max_tokens for text in texts)
    caches = caches_for(model, StaticCache, 1 + max(text.id for text in texts), size)
    draft = EarlyDraft(model, n, K, caches, ids)
    yield from speculate(Resumed(model, draft), texts, draft, caches)


def speedup(a, K, guess, check):
    """Tokens per time against one by one, by project 11's formula, with what was left out of it for K
    guesses.

    a: the share of guesses that hold; guess: a guess; check: what is left of a check, both in decode steps.
    """
    return sum(a**i for i in range(K + 1)) / (K * guess + check)
