"""Several questions behind one beginning: each read anew, and each behind the prefix that is held."""

import time
from dataclasses import dataclass

import torch

from common import hub, plots, tokenizer
from common.benchmark import Stopwatch
from common.cli import chain
from common.cli.script import script
from common.device import synchronize
from common.errors import UserError
from phase03_core_inference.project08_kv_cache.kv_cache import check_room, decode

from .prefix_cache import PrefixCache

QUESTIONS = ("Where does Mara live?", "Who sells bread?", "What is by the river?", "Where does Mara live?")


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    shared: str = "Mara lives in the old mill by the river. Joss sells bread at the market. "
    """The beginning that all prompts share, repeated up to half of the model's context."""
    questions: tuple[str, ...] = QUESTIONS
    """What follows it, prompt by prompt."""
    max_tokens: int = 24
    """New tokens after each prompt; the likeliest ones."""
    block: int = 16
    """Tokens of a block."""
    budget: int = 16_384
    """Tokens that the prefix cache may hold."""

    def __post_init__(self):
        if not self.shared or not self.questions or not all(self.questions):
            raise UserError("a shared beginning and at least one question, none of them empty")
        if min(self.max_tokens, self.block) < 1:
            raise UserError("max_tokens and block must be at least 1")


PRESETS = {"smoke": Config(max_tokens=4, block=4), "cpu": Config(), "gpu": Config(max_tokens=64)}


def prompts_of(config, words, context):
    """The prompts as ids: the shared beginning, half a context long, and each question."""
    shared = words.encode(config.shared)
    while len(shared) < context // 2:
        shared = shared + shared
    return [shared[: context // 2] + words.encode(question) for question in config.questions]


def answer(cache, prompt, n, watch):
    """(n ids, seconds to the first of them, tokens reused)."""
    seconds, done = watch(lambda: cache.prefill(prompt, room=n))
    ids = done.logits.argmax()[None, None]
    if n > 1:
        ids = torch.cat((ids, decode(cache.model, ids, n - 1, done.caches)), dim=1)
    return ids[0].tolist(), seconds, done.reused


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    model, words = hub.load(folder, device=run.device).eval(), tokenizer.load(folder)
    prompts = prompts_of(config, words, model.config.max_seq_len)
    for prompt in prompts:
        check_room(model, len(prompt), config.max_tokens)
    watch = Stopwatch(time.perf_counter, lambda: synchronize(run.device))
    watch(lambda: PrefixCache(model, config.budget, config.block).prefill(prompts[0]))  # the first is slow
    held, rows = PrefixCache(model, config.budget, config.block), []
    for question, prompt in zip(config.questions, prompts, strict=True):
        ids, anew, _ = answer(PrefixCache(model, config.budget, config.block), prompt, config.max_tokens,
                              watch)  # fmt: skip
        again, behind, reused = answer(held, prompt, config.max_tokens, watch)
        rows.append((ids == again, anew, behind, reused))
        run.say(f"\n--- {question} ---\n{words.decode(again)}")
        run.say(f"{len(prompt)} tokens, {reused} reused: the first token after {1e3 * behind:.1f} ms, "
                f"anew {1e3 * anew:.1f} ms; {'the answers agree' if ids == again else 'THE ANSWERS DIFFER'}")
    later = rows[1:] or rows
    speed = sum(row[1] for row in later) / sum(row[2] for row in later)
    run.say(f"\nafter the first prompt, {speed:.1f} times as fast to the first token; "
            f"{held.index.tokens} tokens held")  # fmt: skip
    run.say(f"picture: {plots.save(picture(rows), run.folder / 'first_token.png')}")
    run.finish({"agree": float(all(row[0] for row in rows)), "speed_up": speed,
                "reused": sum(row[3] for row in rows) / sum(map(len, prompts))})  # fmt: skip


def picture(rows):
    """Milliseconds to each prompt's first token, both ways."""
    fig, ((ax,),) = plots.figure()
    plots.bars(ax, {f"prompt {i}": {"read anew": 1e3 * row[1], "prefix held": 1e3 * row[2]}
                    for i, row in enumerate(rows, 1)})  # fmt: skip
    ax.set(title="The first prompt pays for the others", ylabel="ms to the first token")
    plots.legend(ax)
    return fig


if __name__ == "__main__":
    script(main, PRESETS)
