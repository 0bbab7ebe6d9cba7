"""A conversation: what is sent of it, what comes, and what is kept. Knows nothing of Gradio."""

import datetime
import time
from dataclasses import dataclass, field, fields

from common.errors import demand

from .inert import filled
from .room import fit

TEMPLATES = {
    "None": "",
    "A neighbour in Tinytown": "You are {name} from Tinytown. Speak as {name}.",
    "Brief": "Answer in one short sentence.",
    "Teacher": "You teach beginners. Explain step by step, and end with one question. Today is {date}.",
}
MOST = {"saved": 30, "messages": 400, "characters": 20_000, "name": 60}


@dataclass
class Talk:
    """messages: all that was said, as it was said; start: the first turn that is still sent; figures: of the
    last answer; born: which one it is, among those that are kept."""

    messages: list = field(default_factory=list)
    start: int = 0
    figures: dict = field(default_factory=dict)
    born: float = field(default_factory=time.time)

    @property
    def name(self):
        said = next((one["content"] for one in self.messages if one["role"] == "user"), "Nothing said yet")
        line = " ".join(said.split())
        return line if len(line) <= MOST["name"] else line[: MOST["name"] - 1] + "…"

    def back(self, upto=None):
        """Take back the last thing that a user said (or the one at or before message `upto`), and all behind
        it: what it was."""
        places = [i for i, one in enumerate(self.messages) if one["role"] == "user"]
        places = [i for i in places if upto is None or i <= upto]
        demand(places, "there is nothing to take back")
        text = self.messages[places[-1]]["content"]
        del self.messages[places[-1] :]
        self.start, self.figures = min(self.start, max(0, len(places) - 1)), {}
        return text

    def plain(self):
        """As JSON, for the browser to keep."""
        return {"messages": self.messages[-MOST["messages"] :], "born": self.born}


def sound(saved):
    """Talks out of what a browser kept, the newest first: whatever is not one is left out, as anybody can
    write there."""

    def is_talk(one):
        return (isinstance(one, dict) and isinstance(one.get("born"), int | float)
                and isinstance(one.get("messages"), list)
                and all(map(is_message, one["messages"])))  # fmt: skip

    def is_message(one):
        return (isinstance(one, dict) and one.get("role") in ("user", "assistant")
                and isinstance(one.get("content"), str)
                and len(one["content"]) <= MOST["characters"])  # fmt: skip

    rows = [one for one in saved if is_talk(one)] if isinstance(saved, list) else []
    talks = [Talk([{k: m[k] for k in ("role", "content")} for m in one["messages"]][: MOST["messages"]],
                  born=one["born"]) for one in rows[: MOST["saved"]]]  # fmt: skip
    return sorted(talks, key=lambda talk: -talk.born)


def kept(saved, talk):
    """What the browser shall keep, with this talk in it; the oldest go."""
    others = [one for one in sound(saved) if one.born != talk.born]
    talks = [talk, *others] if talk.messages else others
    return [one.plain() for one in sorted(talks, key=lambda one: -one.born)[: MOST["saved"]]]


@dataclass(frozen=True)
class Settings:
    """How to answer. template, name: the system prompt, and who {name} is. seed 0: another each time."""

    template: str = ""
    name: str = "Ilmo"
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 200
    seed: int = 0

    @classmethod
    def of(cls, values):
        """From a page's fields, in this order; what is left empty is as usual."""
        pairs = zip(fields(cls), values, strict=True)
        return cls(**{one.name: value for one, value in pairs if value is not None})

    def system(self):
        """The system prompt, filled in: [] or one message."""
        today = datetime.date.today()
        values = {"name": self.name.strip()[:100], "date": f"{today.day} {today:%B %Y}"}
        text = filled(self.template.strip()[: MOST["characters"]], values)
        return [{"role": "system", "content": text}] if text else []

    def body(self):
        """The fields of a request; those that only some servers know are left out where they say nothing."""
        found = {"temperature": float(self.temperature), "max_tokens": max(1, int(self.max_tokens))}
        known = {"top_p": (float(self.top_p), 1.0), "top_k": (int(self.top_k), 0),
                 "min_p": (float(self.min_p), 0.0), "seed": (int(self.seed), 0)}  # fmt: skip
        return found | {name: value for name, (value, nothing) in known.items() if value != nothing}


def space(room, max_tokens):
    """(tokens for the prompt, for the answer) of a context of `room`: the prompt gets half of it at least."""
    if room is None:
        return None, max_tokens
    new = min(max_tokens, room // 2)
    return room - new, new


def at_most(messages):
    """More tokens than these cannot be, as each has a byte at least; some are for the template. A short
    conversation need not be counted: the first word comes sooner by a request."""
    return 64 + sum(16 + len(one["content"].encode()) for one in messages)


async def reply(server, model, talk, settings, stop=None):
    """Answer what was said last: yields the answer's text so far, each time there is more of it.

    The answer, however far it has come, is part of the talk then. UserError: the server's, or no room.
    """
    body = settings.body()
    room, body["max_tokens"] = space(server.known.rooms.get(model), body["max_tokens"])
    messages = settings.system() + talk.messages
    if room is not None and (talk.start or at_most(messages) > room):
        messages, talk.start = await fit(messages, lambda some: server.count(model, some), room, talk.start)
    answer, pieces = server.say({**body, "model": model, "messages": messages}, stop)
    said = {"role": "assistant", "content": ""}
    talk.messages.append(said)
    try:
        async for some in pieces:
            said["content"] += "".join(some)
            yield said["content"]
    finally:
        await pieces.aclose()
        if not said["content"]:
            talk.messages.remove(said)
        stopped = {"stopped": True} if stop is not None and stop.is_set() else {}
        talk.figures = answer.figures() | {"left out": talk.start} | stopped
