"""Break: the ways to get a cache wrong. Each is set beside the right text: the share of tokens that agree."""

import torch

from common import plots
from common.errors import UserError
from common.generate import Sampling
from common.model import Cache

from ._modes import watched
from .kv_cache import GrowingCache, KVCache, StaticCache, caches_for, decode, decode_ragged, drawn, recompute

CHOOSE = drawn([Sampling(seed=7)])  # the same draws for all: a small mistake shows sooner than in argmax


def agreement(a, b) -> float:
    """The share of tokens of two answers that are the same, up to the first that is not."""
    same = (a == b).all(0).long().cumprod(0)
    return same.float().mean().item()


def tell(lab, name, got, right) -> float:
    """Say how much of an answer is right, and show how it goes on."""
    share = agreement(got, right)
    words = lab.words.decode(got[0].tolist())[:60].replace("\n", " ")
    lab.say(f"  {name:34} right for {share:4.0%} of its tokens   {words!r}")
    return share


@torch.no_grad()
def from_a_paper(model, tokens, n, *, prefill=True, positions=True, own=True, once=True):
    """The loop of a snippet in print, each of its mistakes in or out. It also began with cat([None, k])."""
    caches = [Cache() for _ in model.blocks] if own else [Cache()] * len(model.blocks)
    fed, ids = tokens if prefill else tokens[:, -1:], []
    for _ in range(n):
        start = caches[0].length if positions else 0
        where = start + torch.arange(fed.size(1), device=fed.device)
        if not once and caches[0].length:  # the newest is in the cache already, and is appended once more
            model.hidden(fed, positions=where, caches=caches)
        fed = CHOOSE(model(fed, positions=where, caches=caches)[:, -1], len(ids))[:, None]
        ids.append(fed)
    return torch.cat(ids, 1)


def snippet(lab) -> dict:
    """A snippet in print with five bugs: what each does alone, and all together."""
    T, n = lab.room(24, 32)
    tokens, model = lab.text(T), lab.model
    right = recompute(model, tokens, n, CHOOSE)
    try:
        torch.cat([None, right], dim=1)
    except TypeError as error:
        lab.say(f"  1 the empty cache is None           it does not run: {str(error).splitlines()[0]}")
    mistakes = {"2 the prompt is never read": "prefill", "3 every new token stands at 0": "positions",
                "4 one cache for all layers": "own", "5 the newest is there twice": "once"}  # fmt: skip
    found = {"none of them": tell(lab, "none of them", from_a_paper(model, tokens, n), right)}
    for name, switch in mistakes.items():
        found[name] = tell(lab, name, from_a_paper(model, tokens, n, **{switch: False}), right)
    every = dict.fromkeys(mistakes.values(), False)
    found["2 to 5"] = tell(lab, "2 to 5", from_a_paper(model, tokens, n, **every), right)
    return found


def stale(lab) -> dict:
    """A second text in the caches of the first, which nobody emptied."""
    T, n = lab.room(16, 16)
    T, n = max(1, T // 2), max(1, n // 2)  # two texts have to fit
    first, second, model = lab.text(T, 1), lab.text(T, 2), lab.model
    right, caches = recompute(model, second, n, CHOOSE), caches_for(model, KVCache, 1, 2 * (T + n))
    decode(model, first, n, caches, CHOOSE)
    found = {"not emptied": tell(lab, "caches not emptied", decode(model, second, n, caches, CHOOSE), right)}
    for cache in caches:
        cache.length = 0
    found["emptied"] = tell(lab, "length set to 0 before", decode(model, second, n, caches, CHOOSE), right)
    return found


def positions(lab) -> dict:
    """Every new token one place too far: RoPE turns it too much, and a slot stays empty behind it."""
    T, n = lab.room(24, 32)
    tokens, model = lab.text(T), lab.model
    right = recompute(model, tokens, n - 1, CHOOSE)

    def late(fed, *, positions, caches):
        return model(fed, positions=positions + 1, caches=caches)

    caches, found = caches_for(model, StaticCache, 1, T + n), {}
    got = decode_ragged(model, tokens.tolist(), n - 1, caches, CHOOSE, late)
    found["one too far"] = tell(lab, "one too far, static cache", got, right)
    try:
        counting = caches_for(model, KVCache, 1, T + n)
        model(tokens, caches=counting)
        model(tokens[:, -1:], positions=torch.tensor([T + 1], device=lab.device), caches=counting)
    except UserError as error:
        lab.say(f"  one too far, counting cache        refused: {error}")
    return found


@torch.no_grad()
def causal(lab) -> dict:
    """The prompt read with a mask that looks ahead: its keys know what came later, the answer reads them."""
    T, n = lab.room(24, 32)
    tokens, model = lab.text(T), lab.model
    right, caches = recompute(model, tokens, n, CHOOSE), caches_for(model, KVCache, 1, T + n)
    ahead = torch.ones(T, T, dtype=torch.bool, device=lab.device)
    ids = [CHOOSE(model(tokens, caches=caches, mask=ahead)[:, -1], 0)[:, None]]
    for i in range(1, n):
        ids.append(CHOOSE(model(ids[-1], caches=caches)[:, -1], i)[:, None])
    return {"looks ahead": tell(lab, "the prompt looks ahead", torch.cat(ids, 1), right)}


def inactive(lab) -> dict:
    """A flag that is read by nobody: the text is right, the label says cache, and only a witness notices."""
    T, n = lab.room(24, 32)
    tokens, model = lab.text(T), lab.model

    def with_a_flag(use_cache):
        """What a benchmark may call for months: the flag goes nowhere."""
        return recompute(model, tokens, n, CHOOSE)

    with watched(model) as seen:
        got = with_a_flag(use_cache=True)
    share = tell(lab, "use_cache=True", got, recompute(model, tokens, n, CHOOSE))
    lab.say(f"  what the first attention saw: {seen.mode()}, {sum(seen.fed)} tokens fed, where a cache feeds "
            f"{T + n - 1}")  # fmt: skip
    return {"right": share, "tokens fed": float(sum(seen.fed)), "a cache feeds": float(T + n - 1)}


@torch.no_grad()
def growth(lab) -> dict:
    """A cache that grows by torch.cat: what an append costs by length, beside one with room made once."""
    size, D, repeats = lab.config.context, 64, 5
    counts = [int(size * share) for share in (1 / 8, 1 / 4, 1 / 2, 1 - 1 / size)]
    new, found = torch.zeros(8, 8, 1, D, device=lab.device), {}
    fig, ((ax,),) = plots.figure()
    for name, kind in (("torch.cat", GrowingCache), ("room made once", KVCache)):
        times = []
        for n in counts:
            cache = kind(8, 8, D, size, new)
            cache.update(*(torch.zeros(8, 8, n, D, device=lab.device) for _ in "kv"),
                         torch.arange(n, device=lab.device))  # fmt: skip

            def append(cache=cache, n=n):
                cache.length = n
                return cache.update(new, new, torch.tensor([n], device=lab.device))

            times.append(lab.seconds(append, repeats))
        found[name] = 1e6 * times[-1]
        ax.plot(counts, [1e6 * t for t in times], "o-", label=name)
        row = (f"{n} tokens {1e6 * t:7.1f} µs" for n, t in zip(counts, times, strict=True))
        lab.say(f"  {name:16} " + "   ".join(row))
    ax.set(title="One token appended, 8 rows of 8 heads", xlabel="tokens held", ylabel="µs", yscale="log")
    plots.legend(ax)
    lab.save(fig, "growth.png")
    return {f"µs, {name}": value for name, value in found.items()}


def edges(lab) -> dict:
    """Nothing to read, too much to read, a full cache, other rows: what each is answered with."""
    model, room = lab.model, lab.model.config.max_seq_len
    one = lab.text(1)
    cases = {
        "an empty prompt": lambda: decode(model, one[:, :0], 4, caches_for(model, KVCache, 1, 8)),
        "no tokens asked for": lambda: decode(model, one, 0),
        "longer than the context": lambda: decode(model, lab.text(room), 2),
        "longer than the cache": lambda: decode(model, lab.text(3), 8, caches_for(model, KVCache, 1, 4)),
        "two rows, a cache of one": lambda: decode(model, one.repeat(2, 1), 2,
                                                   caches_for(model, KVCache, 1, 4)),
        "rewound into the future": lambda: setattr(caches_for(model, KVCache, 1, 4)[0], "length", 2),
    }  # fmt: skip
    refused = 0
    for name, call in cases.items():
        try:
            call()
        except UserError as error:
            refused += 1
            lab.say(f"  {name:26} {error}")
        else:
            lab.say(f"  {name:26} WAS NOT REFUSED")
    whole = decode(model, lab.text(room), 1)  # a full context still has one answer
    lab.say(f"  {'as long as the context':26} one token: {whole.tolist()[0]}")
    return {"refused": float(refused), "asked": float(len(cases))}
