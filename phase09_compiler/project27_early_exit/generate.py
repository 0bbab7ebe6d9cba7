"""The same text twice, to the top and with ways out: do they agree, how fast, where did tokens leave?"""

import time
from dataclasses import dataclass
from typing import Literal

from common import plots
from common.benchmark import Stopwatch
from common.cli.script import script
from common.device import synchronize
from common.errors import demand
from common.generate import Sampling
from phase04_advanced_inference.project11_speculative_decoding.rounds import Text

from . import train
from ._model import Source
from ._see import page
from .exits import MEASURES, Patience, Rule, Sure
from .kv_fill import Lagging, decode_early
from .self_speculation import self_speculate


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model, with ways out or not; empty: models/base. One without gets them first."""
    how: Literal["leave", "speculate"] = "leave"
    """leave: who is sure leaves, and may be wrong; speculate: who leaves only guesses, and all is checked."""
    measure: Literal["probe", "confidence", "margin", "certainty", "patience"] = "probe"
    """leave: how sure a token is. patience: how many ways out in a row say the same."""
    threshold: float = 0.9
    """leave: from where on a token is sure; of patience, the number of ways out."""
    n: int = 2
    """speculate: after how many blocks guesses are made."""
    k: int = 3
    """speculate: guesses a round."""
    few: int = 1024
    """speculate: how many ids guesses are made of, those that the text holds most of; 0: all."""
    prompt: str = "Mara lives in"
    """The text to go on with."""
    max_tokens: int = 200
    """New tokens; fewer where the model's context is shorter."""

    def __post_init__(self):
        demand(self.prompt, "the prompt is empty: give a word to begin with, --prompt Once")
        demand(self.k >= 1 and self.few >= 0, "k is at least 1, and few at least 0")
        demand(self.measure in MEASURES or self.threshold >= 1, "patience counts ways out: --threshold 2")
        Sampling(max_tokens=self.max_tokens)


PRESETS = {"smoke": Config(max_tokens=12), "cpu": Config(), "gpu": Config(max_tokens=400)}


def leaving(model, config, tokens, n, rule):
    """(new ids, after how many blocks each but the first left)"""
    ids, left = decode_early(model, tokens, n, rule, caches=Lagging(model, 1, tokens.size(1) + n))
    return ids[0].tolist(), left


def speculating(model, config, tokens, n, few):
    """(new ids, how many each round took)"""
    sampling = Sampling(max_tokens=n, temperature=0, ignore_eos=True)
    text = Text(0, tokens[0].tolist(), sampling, model)
    taken = [took[0] for took in self_speculate(model, [text], config.n, config.k, few)]
    return text.new, taken


def main(config, run):
    source = Source(config.model, train.PRESETS[run.preset], run.device, run.say)
    model, words = source.early.eval(), source.words
    tokens = source.tensor(words.encode(config.prompt))
    n = min(config.max_tokens, model.config.max_seq_len - tokens.size(1) + 1)
    demand(n >= 1, f"the prompt fills the context of {model.config.max_seq_len} tokens: take a shorter one")
    patient = config.measure == "patience"
    rule = Patience(int(config.threshold)) if patient else Sure(config.measure, config.threshold)
    few = source.frequent(config.few) if config.few and config.how == "speculate" else None
    ours = (lambda m: leaving(model, config, tokens, m, rule)) if config.how == "leave" else (
        lambda m: speculating(model, config, tokens, m, few))  # fmt: skip
    sides = {"to the top": lambda m: leaving(model, config, tokens, m, Rule()), "early": ours}
    for write in sides.values():  # the first run of a process is slow, whatever it does
        write(min(n, 8))
    watch = Stopwatch(time.perf_counter, lambda: synchronize(run.device))
    found = {name: watch(lambda w=write: w(n)) for name, write in sides.items()}
    for name, (_, (ids, _)) in found.items():
        run.say(f"\n--- {name} ---\n{config.prompt}{words.decode(ids)}")
    seconds = {name: spent for name, (spent, _) in found.items()}
    plain, new, taken = found["to the top"][1][0], *found["early"][1]
    same = next((i for i, (a, b) in enumerate(zip(plain, new, strict=True)) if a != b), n)
    run.say(
        "\nthe two texts agree, token for token" if same == n else f"\nthe texts part at token {same} of {n}"
    )
    mean, top = sum(taken) / max(1, len(taken)), len(model.blocks)
    run.say(f"{mean:.2f} of {top} blocks a token" if config.how == "leave" else f"{mean:.2f} tokens a round")
    for name, spent in seconds.items():
        run.say(f"{name:12} {n / spent:8.1f} tokens/s")
    gain = seconds["to the top"] / seconds["early"]
    run.say(f"{gain:.2f} times as fast; {cache_bytes(model, tokens.size(1) + n) / 1e6:.2f} MB of caches")
    if config.how == "leave":
        run.say(f"picture: {plots.save(page(words, new, [top, *taken], top), run.folder / 'depths.png')}")
    run.finish({"same": same / n, "speed_up": gain, "mean": mean,
                **{f"tokens_per_s, {name}": n / spent for name, spent in seconds.items()}})  # fmt: skip


def cache_bytes(model, size):
    """Of keys and values of one text, which both ways hold."""
    caches = Lagging(model, 1, size).caches
    return sum(cache.k.nbytes + cache.v.nbytes for cache in caches)


if __name__ == "__main__":
    script(main, PRESETS)
