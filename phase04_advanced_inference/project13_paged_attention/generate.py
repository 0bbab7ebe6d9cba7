"""The same requests in slots of the maximum, and in pages: do they agree, how many fit, how fast?"""

import time
from dataclasses import dataclass

from common import hub, plots, tokenizer
from common.cli import chain
from common.cli.script import script
from common.errors import UserError
from common.generate import Sampling
from common.model import attend, set_attend
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import PrefixIndex
from phase04_advanced_inference.project12_dynamic_batching.engine import Engine

from . import paged_attention
from ._lab import WatchedPages, WatchedSlots, lengths_of, over_time
from ._see import film_picture
from .block_manager import blocks_for

COMMON = "This is the story of a small town. "
BEGINNINGS = ("Mara lives in", "In the morning", "The baker of the town", "Once", "Who has a dog?",
              "At the market", "It rained, and", "The friends of")  # fmt: skip


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    requests: int = 24
    """How many texts to write; all begin with the same sentence and go on in eight ways."""
    median: int = 24
    """Tokens of the middle one; lengths are log-normal."""
    slots: int = 4
    """How many texts of the longest length the memory can hold."""
    size: int = 16
    """Tokens a block."""
    temperature: float = 0.8
    """Of the draw; 0 takes the likeliest token."""
    show: int = 2
    """How many of the texts to print."""
    seed: int = 0
    """Of the lengths and the draws: both draw alike."""

    def __post_init__(self):
        if min(self.requests, self.median, self.slots, self.size) < 1 or self.show < 0:
            raise UserError("requests, median, slots and size must be at least 1, show at least 0")
        Sampling(temperature=self.temperature, seed=self.seed)


PRESETS = {
    "smoke": Config(requests=8, median=5, slots=2, size=4),
    "cpu": Config(),
    "gpu": Config(requests=256, median=128, slots=32)}  # fmt: skip


def asked(config, model, words):
    """(prompts, samplings) of the requests."""
    room = model.config.max_seq_len // 2
    prompts = [words.encode(COMMON + BEGINNINGS[i % len(BEGINNINGS)])[:room] for i in range(config.requests)]
    lengths = lengths_of(config.requests, median=config.median, longest=room, seed=config.seed)
    return prompts, [Sampling(max_tokens=n, temperature=config.temperature, seed=config.seed + i,
                              ignore_eos=True) for i, n in enumerate(lengths)]  # fmt: skip


def run_store(store, model, prompts, samplings, *, max_batch, prefix=None):
    """(ids of each, seconds, texts at a time at most)"""
    engine = Engine(model, store, max_batch=max_batch, max_step_tokens=16 * max_batch, prefix=prefix)
    began = time.perf_counter()
    answers = [list(answer.ids) for answer in engine.generate(prompts, samplings)]
    return answers, time.perf_counter() - began, max(row[0] for row in store.log)


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    model, words = hub.load(folder, device=run.device).eval(), tokenizer.load(folder)
    prompts, samplings = asked(config, model, words)
    longest = max(len(ids) + one.max_tokens for ids, one in zip(prompts, samplings, strict=True))
    tokens, lengths = config.slots * longest, [one.max_tokens for one in samplings]
    run.say(f"{folder.name}: {len(lengths)} texts of {min(lengths)} to {max(lengths)} new tokens, in memory "
            f"for {tokens}")  # fmt: skip
    slots = WatchedSlots(model, config.slots, longest)
    right, spent, most = run_store(slots, model, prompts, samplings, max_batch=config.slots)
    pages = WatchedPages(model, blocks_for(tokens, config.size), config.size)
    set_attend(model, paged_attention.attend)
    answers, paged, more = run_store(pages, model, prompts, samplings, max_batch=8 * config.slots,
                                     prefix=PrefixIndex(config.size))  # fmt: skip
    set_attend(model, attend)
    for ids, one, two in list(zip(prompts, right, answers, strict=True))[: config.show]:
        for name, new in (("slots", one), ("pages", two)):
            run.say(f"\n--- {name}, {len(new)} tokens ---\n{words.decode(ids)}{words.decode(new)}")
    agree = sum(mine == theirs for mine, theirs in zip(answers, right, strict=True))
    run.say(f"\n{agree} of {config.requests} texts agree, token for token")
    memory = sum(x.numel() * x.element_size() for pool in pages.pools for x in pool)
    for name, seconds, texts, store in (("slots", spent, most, slots), ("pages", paged, more, pages)):
        empty = over_time(store.log)[2]
        run.say(f"{name:6} {sum(lengths) / seconds:8.1f} tokens/s   at most {texts:3} texts at a time   "
                f"{empty:6.1%} of what they take is empty   {memory / 1e6:.2f} MB")  # fmt: skip
    picture = film_picture(pages.films, len(pages.refs), f"blocks of {config.size}: a colour a text")
    run.say(f"picture: {plots.save(picture, run.folder / 'pages.png')}")
    run.finish({"agree": agree / config.requests, "texts, slots": float(most), "texts, pages": float(more),
                "speed_up": spent / paged})  # fmt: skip


if __name__ == "__main__":
    script(main, PRESETS)
