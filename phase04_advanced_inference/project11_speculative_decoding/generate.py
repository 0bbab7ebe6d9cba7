"""The same text twice, token by token and with guesses: do they agree, how fast, how many guesses held?"""

import time
from dataclasses import dataclass
from typing import Literal

from common import plots
from common.benchmark import Stopwatch
from common.cli.script import script
from common.device import synchronize
from common.errors import demand
from common.generate import Sampling
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for, check_room

from . import train
from ._pair import Counted, Pair, is_tie, written
from .speculative import Draft

NAMES = {"model": "a small model", "lookup": "the text itself", "heads": "the model's heads"}


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    draft: str = ""
    """Folder or name of a draft model; empty: models/draft, and where there is none, one trained now."""
    how: Literal["model", "lookup", "heads"] = "model"
    """Who guesses: a small model, the text itself, or heads beside the model."""
    k: int = 4
    """Guesses a round."""
    sure: float = 0.0
    """With a small model: a guess to which it gives a smaller share is the last of its round; 0: never."""
    prompt: str = "Mara lives in"
    """The text to go on with."""
    max_tokens: int = 200
    """New tokens; fewer where the model's context is shorter."""
    temperature: float = 0.0
    """Of the draw; 0 takes the likeliest token."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self):
        demand(self.prompt, "the prompt is empty: give a word to begin with, --prompt Once")
        demand(self.k >= 1, f"{self.k} guesses a round: at least 1")
        Sampling(max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed)


PRESETS = {"smoke": Config(max_tokens=16), "cpu": Config(), "gpu": Config(max_tokens=400)}


def main(config, run):
    pair = Pair(config.model, config.draft, train.PRESETS[run.preset], run.device, run.say)
    model, words, ids = pair.model, pair.words, pair.words.encode(config.prompt)
    check_room(model, len(ids), 1)
    n = min(config.max_tokens, model.config.max_seq_len - len(ids) + 1)
    sampling = Sampling(max_tokens=n, temperature=config.temperature, seed=config.seed)
    sides = {"one by one": Draft, "with guesses": lambda: pair.draft(config.how, config.k, 1, len(ids) + n,
                                                                          config.sure)}
    warm, counted = Sampling(max_tokens=min(n, 8), temperature=0), {}
    for name, make in sides.items():  # the first run of a process is slow, whatever it does
        written(model, [ids], [warm], make())
        counted[name] = Counted(make())
    watch = Stopwatch(time.perf_counter, lambda: synchronize(run.device))
    found = {name: watch(lambda d=draft: written(model, [ids], [sampling], d))
             for name, draft in counted.items()}  # fmt: skip
    run.say(f"{pair.place.name}: {sum(p.numel() for p in model.parameters()):,} weights; {config.k} guesses "
            f"a round by {NAMES[config.how]}")  # fmt: skip
    texts = {name: new for name, (_, ([new], _)) in found.items()}
    for name, new in texts.items():
        run.say(f"\n--- {name} ---\n{config.prompt}{words.decode(new)}")
    agree = texts["one by one"] == texts["with guesses"]
    run.say(f"\n{verdict(config, agree, lambda: is_tie(model, ids, *texts.values()))}")
    taken = [took[0] for took in found["with guesses"][1][1]]
    a, length = counted["with guesses"].acceptance, counted["with guesses"].length
    seconds = {name: spent for name, (spent, _) in found.items()}
    for name, spent in seconds.items():
        run.say(f"{name:12} {n / spent:8.1f} tokens/s")
    for name, held in memory(pair, config.how, len(ids) + n).items():
        run.say(f"{name:12} {held / 1e6:8.2f} MB of weights and caches")
    gain = seconds["one by one"] / seconds["with guesses"]
    run.say(f"{gain:.2f} times as fast; {a:.0%} of the guesses that were looked at held, {length:.2f} "
            f"tokens a round, {len(taken)} forwards for {n} tokens")  # fmt: skip
    run.say(f"picture: {plots.save(picture(taken, config.k), run.folder / 'rounds.png')}")
    run.finish({"agree": float(agree), "speed_up": gain, "acceptance": a, "tokens a round": length,
                **{f"tokens_per_s, {name}": n / spent for name, spent in seconds.items()}})  # fmt: skip


def memory(pair, how, size):
    """Bytes of the weights and caches that each side holds."""

    def held(model):
        caches = caches_for(model, StaticCache, 1, size)
        return sum(p.nbytes for p in model.parameters()) + sum(c.k.nbytes + c.v.nbytes for c in caches)

    large, more = held(pair.model), 0
    if how == "model":
        more = held(pair.small)
    if how == "heads":
        more = sum(p.nbytes for p in pair.heads.parameters())
    return {"one by one": large, "with guesses": large + more}


def verdict(config, agree, tie):
    """What it means that the two texts agree, or do not."""
    if agree:
        return "the two texts agree, token for token"
    if config.temperature and config.how == "model":
        return ("the two texts differ, as they may: guesses were drawn, so other draws decided; each text is "
                "as likely as it would be without guesses")  # fmt: skip
    if config.temperature == 0 and tie():
        return "the texts agree up to a tie: there two tokens are as good as equally likely"
    return "THE TEXTS DIFFER, and not by a tie"


def picture(taken, K):
    """How many tokens each round brought."""
    fig, ((ax,),) = plots.figure(width=9.0)
    ax.bar(range(1, len(taken) + 1), taken, width=0.8)
    plots.level(ax, K + 1, f"all {K} guesses, and one more")
    ax.set(title="What each forward of the large model brought", xlabel="round", ylabel="tokens")
    ax.set_ylim(0, K + 1.6)
    return fig


if __name__ == "__main__":
    script(main, PRESETS)
