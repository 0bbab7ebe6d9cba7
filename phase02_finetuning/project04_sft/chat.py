"""Talk with a model of the chain in the terminal: the first conversation of the course.

`./thirty chat` takes the newest of models/sft, models/lora and models/dpo. What was said so far stands in
every prompt; where it no longer fits, the oldest question goes first, together with its answer.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain, restores
from common.cli.paths import models
from common.cli.script import script
from common.errors import demand
from common.generate import Sampling, stream

from .sft import marks, prompt

LINKS = ("sft", "lora", "dpo")
HELP = "/new forgets what was said, /system TEXT sets a system prompt and begins anew, /quit ends"


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: the newest of models/sft, lora, dpo, else a tiny one made now."""
    system: str = ""
    """System prompt: who the model is to be."""
    say: tuple[str, ...] = ()
    """What to say, in place of the keyboard."""
    max_tokens: int = 96
    """Tokens of an answer at most."""
    temperature: float = 0.0
    """0: always the likeliest token; higher: more surprising ones."""
    seed: int = 0
    """Start of the random numbers."""


PRESETS = {"smoke": Config(say=("Hello!", "Where does Mara work?"), max_tokens=12), "cpu": Config()}


class Conversation:
    """What was said, and what the model says next."""

    def __init__(self, model, tokenizer, sampling: Sampling, system: str = ""):
        self.model, self.tokenizer, self.sampling, self.tokens = model, tokenizer, sampling, 0
        self.begin(system)

    def begin(self, system: str = "") -> None:
        """Forget everything but a system prompt."""
        self.messages = [{"role": "system", "content": system}] if system else []

    def fit(self) -> list[int]:
        """The prompt, without as many of the oldest exchanges as must go for an answer to have room."""
        context = self.model.config.max_seq_len
        room = context - min(self.sampling.max_tokens, context // 2)
        first = int(self.messages[0]["role"] == "system")
        while len(ids := prompt(self.messages, self.tokenizer)) > room and len(self.messages) > first + 2:
            del self.messages[first : first + 2]
        return ids[-room:]

    def answer(self, text: str) -> Iterator[str]:
        """The pieces of the answer as they come; what was said stays, also where the answer is broken off."""
        self.messages.append({"role": "user", "content": text})
        said, ends = "", tuple({marks(self.tokenizer)[1], *self.tokenizer.eos_ids})
        ids = self.fit()
        try:
            pieces = stream(self.model, [ids], self.sampling, tokenizer=self.tokenizer, eos_ids=ends)
            for piece in pieces:
                self.tokens += 1
                said += piece.text
                yield piece.text
        finally:
            self.messages.append({"role": "assistant", "content": said})


def newest(named: str, say) -> str:
    """The folder named, else the one of LINKS that was made last, else a stand-in for models/sft."""
    made = [models() / link for link in LINKS if chain.whole(models() / link)]
    if named or not made:
        return chain.find("sft", named, say=say)
    return max(made, key=lambda folder: (folder / "card.json").stat().st_mtime)


def lines(config: Config) -> Iterator[str]:
    """What the user says: given lines, or the keyboard's until it ends."""
    if config.say:
        for text in config.say:
            print(f"> {text}")
            yield text
        return
    while True:
        if sys.stdin.isatty():  # pragma: no cover - a terminal
            print("> ", end="", flush=True)
        if not (text := sys.stdin.readline()):
            return
        yield text.strip()


def converse(talk: Conversation, config: Config, say) -> None:
    """One answer to each line, until /quit or the end of the input."""
    for text in filter(None, lines(config)):
        word, _, rest = text.partition(" ")
        if word in ("/quit", "/exit"):
            return
        if word in ("/new", "/system"):
            talk.begin(rest.strip() if word == "/system" else config.system)
            say("(a new conversation)")
        elif word.startswith("/"):
            say(HELP)
        else:
            try:
                for piece in talk.answer(text):
                    print(piece, end="", flush=True)
                print()
            except KeyboardInterrupt:  # of this answer, not of the conversation
                print(" …")


def main(config, run):
    demand(config.max_tokens >= 1, f"max_tokens is {config.max_tokens}: it must be at least 1")
    folder = newest(config.model, run.say)
    model = hub.load(folder, device=run.device, restore=restores.table()).eval()
    tokenizer = tokenizers.load(folder)
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed)
    talk = Conversation(model, tokenizer, sampling, config.system)
    run.say(f"{folder}\n{HELP}")
    began = time.perf_counter()
    converse(talk, config, run.say)
    run.finish({"tokens": talk.tokens, "seconds": time.perf_counter() - began})


if __name__ == "__main__":
    script(main, PRESETS)
