"""Passages put together: what a wrong position costs, what turning mends, what it cannot; hot passages."""

from random import Random
from statistics import fmean

import torch
import torch.nn.functional as F

from common import plots
from common.errors import demand
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for

from .chunk_cache import ChunkCache
from .eviction import TokenStore
from .sketch import CountMin, HotKeys


class Unturned(ChunkCache):
    """What goes wrong: keys are used as they were read, so that every passage believes to stand at 0."""

    def place(self, kv, by):
        return kv


def prompts(lab):
    """[(passages, question)]: the end of the last page is the question, its beginning the last passage."""
    context = lab.model.config.max_seq_len
    n = max(4, context // 6)  # tokens of a passage; four of them and a question fill five sixths
    pages = [page for page in lab.pages if len(page) >= 2 * n]
    demand(len(pages) >= 4, f"only {len(pages)} pages have {2 * n} tokens: ask for more --pages")
    draw = Random(0)
    made = []
    for _ in range(lab.config.prompts):
        *others, last = draw.sample(pages, 4)
        made.append(([*(page[:n] for page in others), last[:n]], last[n : 2 * n]))
    return made


@torch.no_grad()
def after(model, caches, question):
    """The logits (n - 1, V) at all but the last token of a question, behind what the caches hold."""
    tokens = torch.tensor([question[:-1]], device=model.embed.weight.device)
    return model(tokens, caches=caches)[0]


@torch.no_grad()
def filled(model, ids, room):
    """Caches that have read ids at once."""
    caches = caches_for(model, KVCache, 1, len(ids) + room)
    if ids:
        model.hidden(torch.tensor([ids], device=model.embed.weight.device), caches=caches)
    return caches


@torch.no_grad()
def assembled(cache, passages, room):
    """Caches put together of passages; the question's place is left free."""
    found = cache.prefill(passages, [0], room)
    for held in found.caches:
        held.length -= 1
    return found.caches


def ways(lab, passages, room):
    """{name: caches} of everything that may stand before the question."""
    model, whole = lab.model, [token for passage in passages for token in passage]
    return {
        "read at once": filled(model, whole, room),
        "kept, turned": assembled(ChunkCache(model, TokenStore(10**6)), passages, room),
        "kept, not turned": assembled(Unturned(model, TokenStore(10**6)), passages, room),
        "the last passage only": filled(model, passages[-1], room),
        "no passage": filled(model, [], room)}  # fmt: skip


def compare(lab):
    """(losses, likeliest tokens the same, {way: {layer: errors of keys}}), a number for each prompt."""
    losses, same, errors = {}, {}, {}
    for passages, question in prompts(lab):
        made, right = ways(lab, passages, len(question)), None
        ends, n = torch.tensor(question[1:], device=lab.device), sum(map(len, passages))
        for name, caches in made.items():
            for layer, (mine, true) in enumerate(zip(caches, made["read at once"], strict=True)):
                if name.startswith("kept"):
                    k, want = mine.k[:, :, :n], true.k[:, :, :n]
                    off = ((k - want).norm() / want.norm()).item()
                    errors.setdefault(name, {}).setdefault(layer, []).append(off)
            logits = after(lab.model, caches, question)
            right = logits if right is None else right
            losses.setdefault(name, []).append(F.cross_entropy(logits, ends).item())
            same.setdefault(name, []).append((logits.argmax(-1) == right.argmax(-1)).float().mean().item())
    return losses, same, errors


def chunks(lab):
    """Keys of passages read alone against those read at once, layer by layer; and what it costs the text."""
    losses, same, errors = compare(lab)
    mean, agree = ({name: fmean(row) for name, row in table.items()} for table in (losses, same))
    for name, loss in mean.items():
        lab.say(f"  {name:22} {loss:.3f} nats a token   {agree[name]:6.1%} of the likeliest tokens the same")
    fig, ((left, right),) = plots.figure(1, 2, width=11.0)
    for name, layers in errors.items():
        line = [fmean(row) for row in layers.values()]
        left.plot(range(1, len(line) + 1), line, "o-", label=name)
        lab.say(f"  {name:22} keys off by " + "  ".join(f"{value:.2g}" for value in line))
    left.set(title="How far off the keys are", xlabel="layer", ylabel="relative to their length")
    left.set_ylim(bottom=0)
    plots.legend(left)
    right.barh(list(mean)[::-1], list(mean.values())[::-1], color=plots.COLOURS[0], height=0.6)
    for i, value in enumerate(list(mean.values())[::-1]):
        right.text(value, i, f" {value:.2f}", va="center", fontsize=11, color=plots.INK)
    right.set(title="The question's text, behind …", xlabel="nats a token")
    right.margins(x=0.15)
    right.grid(False, axis="y")
    lab.save(fig, "chunks.png")
    return {**{f"nats, {name}": value for name, value in mean.items()},
            **{f"same, {name}": value for name, value in agree.items()},
            "first layer, turned": fmean(errors["kept, turned"][0])}  # fmt: skip


def zipf(n_passages, n_requests, each=3, power=1.1, seed=0):
    """n requests of `each` passages' numbers; the i-th most popular is asked for like i ** -power.

    The ranks are drawn anew half way: what is hot changes.
    """
    draw, order, asked = Random(seed), list(range(n_passages)), []
    weights = [(i + 1) ** -power for i in range(n_passages)]
    for i in range(n_requests):
        if i % (n_requests // 2 + 1) == 0:
            draw.shuffle(order)
        asked.append(list(dict.fromkeys(order[j] for j in draw.choices(range(n_passages), weights, k=each))))
    return asked


def hot_cache(model, budget):
    """A chunk cache that keeps only what its sketch calls hot: asked for at least once in 200 times."""
    return ChunkCache(model, TokenStore(budget), HotKeys(CountMin(512), share=0.005))


def hot(lab):
    """A Zipf trace of retrieved passages: nothing kept, all kept while there is room, the hot ones kept."""
    n, size = 8 * lab.config.prompts, max(4, lab.model.config.max_seq_len // 8)
    passages = [[token % lab.model.config.vocab_size for token in lab.ids(size, seed)] for seed in range(n)]
    budget, question = size * max(2, n // 10), lab.ids(max(1, size // 4), 10**6)
    question = [token % lab.model.config.vocab_size for token in question]
    asked, found = zipf(n, lab.config.turns // 2), {}
    everything = ChunkCache(lab.model, TokenStore(budget))
    kinds = {"all that fits": everything, "the hot": hot_cache(lab.model, budget)}
    for name, cache in kinds.items():
        reused = read = 0
        for numbers in asked:
            done = cache.prefill([passages[i] for i in numbers], question)
            reused, read = reused + done.reused, read + size * len(numbers)
        found[name] = reused / read
        lab.say(f"  {name:14} {reused / read:6.1%} of the passages' tokens were kept, in {budget} tokens")
    return found
