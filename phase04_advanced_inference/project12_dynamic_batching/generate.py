"""The same requests in static batches and continuously: do they agree, how fast, in how much memory?"""

import time
from dataclasses import dataclass

from common import hub, plots, tokenizer
from common.cli import chain
from common.cli.script import script
from common.errors import UserError
from common.generate import Sampling
from phase03_core_inference.project08_kv_cache.kv_cache import drawn

from ._lab import Steps
from ._see import gantt_picture, static_log
from ._workload import traffic
from .batching import run_batch, static_steps
from .engine import Engine, SlotStore

BEGINNINGS = ("Mara lives in", "In the morning", "The baker of the town", "Once", "Who has a dog?",
              "At the market", "It rained, and", "The friends of")  # fmt: skip


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    requests: int = 24
    """How many texts to write; they begin in eight ways, and are of log-normal length."""
    median: int = 24
    """Tokens of the middle one."""
    slots: int = 6
    """How many are written at a time."""
    max_step_tokens: int = 64
    """How many tokens one step feeds at most; longer prompts are read in parts."""
    temperature: float = 0.8
    """Of the draw; 0 takes the likeliest token."""
    show: int = 3
    """How many of the texts to print."""
    seed: int = 0
    """Of the lengths and the draws: both modes draw alike."""

    def __post_init__(self):
        if min(self.requests, self.median, self.slots) < 1 or self.show < 0:
            raise UserError("requests, median and slots must be at least 1, show at least 0")
        if self.max_step_tokens < self.slots:
            raise UserError(f"max_step_tokens {self.max_step_tokens} is below slots {self.slots}: every text "
                            "that is being written needs a token a step")  # fmt: skip
        Sampling(temperature=self.temperature, seed=self.seed)


PRESETS = {
    "smoke": Config(requests=8, median=5, slots=3, max_step_tokens=12),
    "cpu": Config(),
    "gpu": Config(requests=256, median=128, slots=64, max_step_tokens=1024)}  # fmt: skip


def asked(config, model, words):
    """(prompts, samplings) of the requests."""
    room = model.config.max_seq_len // 2
    prompts = [words.encode(BEGINNINGS[i % len(BEGINNINGS)])[:room] for i in range(config.requests)]
    lengths = traffic(config.requests, vocab_size=2, median=config.median, longest=room, seed=config.seed)
    return prompts, [Sampling(max_tokens=one.n, temperature=config.temperature, seed=config.seed + i,
                              ignore_eos=True) for i, one in enumerate(lengths)]  # fmt: skip


def in_batches(model, prompts, samplings, B):
    """Static batches, in order of arrival."""
    answers = []
    for i in range(0, len(prompts), B):
        some = samplings[i : i + B]
        answers += run_batch(model, prompts[i : i + B], [one.max_tokens for one in some], drawn(some))
    return answers


def continuously(config, model, prompts, samplings):
    """The engine, and all answers."""
    size = max(len(ids) + one.max_tokens for ids, one in zip(prompts, samplings, strict=True))
    engine = Engine(model, SlotStore(model, config.slots, size), max_batch=config.slots,
                    max_step_tokens=config.max_step_tokens)  # fmt: skip
    return engine, [list(answer.ids) for answer in engine.generate(prompts, samplings)]


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    model, words = hub.load(folder, device=run.device).eval(), tokenizer.load(folder)
    prompts, samplings = asked(config, model, words)
    lengths, B = [one.max_tokens for one in samplings], config.slots
    run.say(f"{folder.name}: {len(lengths)} texts of {min(lengths)} to {max(lengths)} tokens, {B} at a time")
    in_batches(model, prompts[:B], samplings[:B], B)  # the first run of a process is slow, whatever it does
    began = time.perf_counter()
    right = in_batches(model, prompts, samplings, B)
    between = time.perf_counter()
    engine, answers = continuously(config, model, prompts, samplings)
    seconds = {"static": between - began, "continuous": time.perf_counter() - between}
    for ids, answer, other in list(zip(prompts, answers, right, strict=True))[: config.show]:
        for mode, new in (("static", other), ("continuous", answer)):
            run.say(f"\n--- {mode}, {len(new)} tokens ---\n{words.decode(ids)}{words.decode(new)}")
    agree = sum(mine == theirs for mine, theirs in zip(answers, right, strict=True))
    run.say(f"\n{agree} of {config.requests} texts agree, token for token")
    forwards = {"static": static_steps(lengths, B), "continuous": engine.stats()["steps"]}
    slot = 2 * sum(k[0].numel() * k.element_size() for k, _ in engine.store.pools)
    for mode, spent in seconds.items():
        run.say(f"{mode:11} {sum(lengths) / spent:8.1f} tokens/s   {forwards[mode]:5} steps   "
                f"cache {B * slot / 1e6:6.2f} MB for {B} at a time")  # fmt: skip
    faster, fewer = (side["static"] / side["continuous"] for side in (seconds, forwards))
    run.say(f"{faster:.2f} times as fast, in {fewer:.2f} times fewer steps")
    run.say(f"picture: {plots.save(picture(config, model, prompts, lengths), run.folder / 'slots.png')}")
    run.finish({"agree": agree / config.requests, "speed_up": faster,
                **{f"steps, {mode}": float(n) for mode, n in forwards.items()}})  # fmt: skip


def picture(config, model, prompts, lengths):
    """Who sat in which slot, in both modes; the first texts, so that one can see them."""
    some = min(len(prompts), 5 * config.slots)
    steps = Steps(model, config.slots, max(map(len, prompts)) + max(lengths),
                  max_step_tokens=config.max_step_tokens)  # fmt: skip
    for ids, n in zip(prompts[:some], lengths[:some], strict=True):
        steps.add(ids, n)
    static = static_log([len(ids) for ids in prompts[:some]], lengths[:some], config.slots)
    return gantt_picture({"static": static, "continuous": steps.drain().store.log}, config.slots)


if __name__ == "__main__":
    script(main, PRESETS)
