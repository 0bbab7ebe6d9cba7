"""See: what updates cost, what settings do to entropy, prefixes over turns, what finds a passage."""

import asyncio
import time

import numpy as np

from common import plots
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import PrefixIndex

from . import _town
from .documents import Chunk as Passage
from .documents import Shelf, blindly, cut
from .room import fit
from .sampler import distinct, entropy, shaped
from .stream import coalesced, retold

RATES = (20, 50, 200, 1000)


def updates(lab):
    """Characters that are handed over for an answer: all of it after each token, or only what is new."""
    sizes = [n for n in (10, 30, 100, 300, 1000, 2000) if n <= lab.config.tokens]
    naive = [sum(map(len, retold(["word "] * n))) for n in sizes]
    new = [5 * n for n in sizes]
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    left.plot(sizes, naive, "o-", label="all so far, each time")
    left.plot(sizes, new, "o-", label="what is new")
    left.set(title="Characters handed over", xlabel="tokens of the answer", xscale="log", yscale="log")
    plots.legend(left)
    seconds, found = 1.0 if lab.config.tokens > 100 else 0.2, {}
    for rate in RATES:
        found[rate] = asyncio.run(counted(rate, seconds))
        lab.say(f"  {rate:5} tokens a second: {found[rate]:.0f} updates a second")
    right.plot(RATES, RATES, ":", color=plots.QUIET, label="one for each token")
    right.plot(RATES, [found[rate] for rate in RATES], "o-", label="coalesced")
    right.set(title="Updates a second", xlabel="tokens a second", xscale="log", yscale="log")
    plots.legend(right)
    lab.save(fig, "updates.png")
    lab.say(f"  an answer of {sizes[-1]} tokens: {naive[-1]:,} characters, or {new[-1]:,}")
    return {"times as many characters": naive[-1] / new[-1], "updates at 1000": found[1000]}


async def counted(rate, seconds):
    """How many lists a second come of tokens at a rate."""

    async def source():
        clock = time.perf_counter
        began = clock()
        for i in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + i / rate - clock()))
            yield "word "

    n, began = 0, time.perf_counter()
    async for _ in coalesced(source()):
        n += 1
    return n / (time.perf_counter() - began)


TEXTS = ("Ilmo lives in", "Once upon a time", "One", "The baker was so tired that")


def entropy_map(lab):
    """How undecided four beginnings are, and how many different tokens come up, by temperature and top-p."""
    at = np.linspace(0.1, 2.0, 4 if lab.config.draws < 10 else 20)
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    found = {}
    for text in TEXTS:
        logits = lab.logits(lab.words.encode(text))
        found[text] = entropy(shaped(logits))
        left.plot(at, [entropy(shaped(logits, t)) for t in at], label=f"“{text} …”")
        lab.say(f"  “{text} …”: {found[text]:.2f} bits at temperature 1")
    left.set(title="Bits of choice", xlabel="temperature", ylim=(0, None))
    plots.legend(left)
    logits = lab.logits(lab.words.encode(TEXTS[1]))
    for top_p in (1.0, 0.9, 0.5):
        many = [distinct(shaped(logits, t, 0, top_p), 20) for t in at]
        right.plot(at, many, label=f"top-p {top_p:g}")
    right.set(title=f"Different tokens in 20 draws, “{TEXTS[1]} …”", xlabel="temperature", ylim=(0, 20))
    plots.legend(right)
    lab.save(fig, "entropy.png")
    return {f"bits: {text}": bits for text, bits in found.items()}


QUESTION = "Question {}: where does Ilmo live, and who is his friend?"
ANSWER = "Ilmo lives in Mill Lane, and everybody is his friend. That was answer {}."


async def found_there(lab, keep, room, size=16):
    """The share of each turn's prompt that was there already, for a way of cutting; by project 10's index."""
    index, said, start, shares = PrefixIndex(size), [{"role": "system", "content": "You are kind."}], 0, []

    def ids_of(messages):
        return lab.words.chat_ids(messages, add_generation_prompt=True)

    async def count(messages):
        return len(ids_of(messages))

    for i in range(lab.config.turns):
        said.append({"role": "user", "content": QUESTION.format(i)})
        sent, start = await fit(said, count, room, start if keep < 1 else 0, keep)
        ids = ids_of(sent)
        shares.append(index.match(ids[:-1])[0] / len(ids))
        said.append({"role": "assistant", "content": ANSWER.format(i)})
        whole = lab.words.chat_ids([*sent, said[-1]], add_generation_prompt=False)
        whole = whole[: len(whole) // size * size]
        index.insert(whole, list(range(len(whole) // size)))
    return shares


def turns(lab):
    """How much of each turn's prompt is there already: cut just enough, or deeper and then seldom."""
    exchange = [{"role": "user", "content": QUESTION.format(0)},
                {"role": "assistant", "content": ANSWER.format(0)}]  # fmt: skip
    room = 4 * len(lab.words.chat_ids(exchange, add_generation_prompt=True))
    fig, ((ax,),) = plots.figure(width=8.5)
    found = {}
    for name, keep in (("just enough, each turn", 1.0), ("down to 0.6 of the room", 0.6)):
        shares = asyncio.run(found_there(lab, keep, room))
        found[name] = float(np.mean(shares[1:]))
        ax.plot(range(1, len(shares) + 1), shares, "o-", label=name, markersize=4)
        lab.say(f"  {name}: {found[name]:.0%} of the prompts' tokens were there already")
    ax.set(title="Of a turn's prompt, there already", xlabel="turn", ylim=(0, 1.02))
    plots.legend(ax)
    lab.save(fig, "turns.png")
    return found


def passages(lab):
    """Is the right passage among the k best? Cut at sentences, with and without overlap, and blindly."""
    texts, asked = _town.questions(lab.config.questions)
    ways = {"sentences, overlap": cut(texts, 60, 15), "sentences": cut(texts, 60, 0),
            "every 250 characters": [Passage(name, a, b, text[a:b]) for name, text in texts.items()
                                     for a, b in blindly(text, 250)]}  # fmt: skip
    fig, ((ax,),) = plots.figure(width=8.5)
    found, ks = {}, (1, 2, 3, 5, 10)
    for name, chunks in ways.items():
        shelf = Shelf(chunks)
        best = [shelf.search(one.question, max(ks)) for one in asked]
        recall = [np.mean([any(_town.holds(chunks[i], one) for i in some[:k])
                           for one, some in zip(asked, best, strict=True)]) for k in ks]  # fmt: skip
        ax.plot(ks, recall, "o-", label=name)
        found[f"recall@5, {name}"] = float(recall[ks.index(5)])
        lab.say(f"  {name}: {len(chunks)} passages, recall@5 {recall[ks.index(5)]:.2f}")
    ax.set(title="The whole fact is in one of the k best", xlabel="k", ylim=(0, 1.02), xticks=ks)
    plots.legend(ax)
    lab.save(fig, "passages.png")
    return found
