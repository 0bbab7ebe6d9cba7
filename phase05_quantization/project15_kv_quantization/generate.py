"""The same text with the full cache, and in 8, 4 and 2 bits: how much of it agrees, in how much memory?"""

import functools
import time
from dataclasses import dataclass

import torch

from common import hub, plots, tokenizer
from common.cli import chain
from common.cli.script import script
from common.errors import UserError
from common.generate import Sampling
from common.model import set_attend
from phase03_core_inference.project08_kv_cache.kv_cache import (
    KVCache,
    caches_for,
    check_room,
    decode,
    drawn,
    greedy,
)

from .kv_quant import QuantizedCache, attend
from .rows import TYPES, Format


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    prompt: str = "Mara lives in"
    """The text to go on with."""
    max_tokens: int = 400
    """New tokens; fewer where the model's context is shorter."""
    group: int = 32
    """Tokens that share the scales of their keys, and channels those of values, if a head has so many."""
    window: int = 32
    """The newest tokens that are kept as they came; at least so many."""
    temperature: float = 0.8
    """Of the draw; 0 takes the likeliest token."""
    seed: int = 0
    """Of the draw: all draw alike."""

    def __post_init__(self):
        if not self.prompt:
            raise UserError("the prompt is empty: give a word to begin with, --prompt Once")
        Sampling(max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed)
        for bits in TYPES:
            Format(bits, self.group, self.window)


PRESETS = {
    "smoke": Config(max_tokens=48, group=16, window=8),
    "cpu": Config(),
    "gpu": Config(max_tokens=1000, group=64, window=64)}  # fmt: skip


def held(cache):
    """Bytes of all that a cache has room for."""
    return cache.nbytes if isinstance(cache, QuantizedCache) else cache.k.nbytes + cache.v.nbytes


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    model = set_attend(hub.load(folder, device=run.device).eval(), attend)
    words = tokenizer.load(folder)
    tokens = torch.tensor([words.encode(config.prompt)], device=run.device)
    check_room(model, tokens.size(1), 1)
    n = min(config.max_tokens, model.config.max_seq_len - tokens.size(1) + 1)
    sampling = Sampling(max_tokens=n, temperature=config.temperature, seed=config.seed)
    choose, size = drawn([sampling]) if config.temperature else greedy, tokens.size(1) + n
    kinds = {"full": KVCache} | {f"{bits} bits": functools.partial(
        QuantizedCache, form=Format(bits, config.group, config.window)) for bits in TYPES}  # fmt: skip
    run.say(f"{folder.name}: a prompt of {tokens.size(1)} tokens and {n} new ones")
    decode(model, tokens, 2, caches_for(model, KVCache, 1, size), choose)  # the first run is slow, always
    found, right = {}, None
    for name, kind in kinds.items():
        caches = caches_for(model, kind, 1, size)
        began = time.perf_counter()
        ids = decode(model, tokens, n, caches, choose)
        spent = time.perf_counter() - began
        right = ids if right is None else right
        same = int((ids == right).long().cumprod(1).sum())
        found[name] = n / spent, same, sum(map(held, caches))
        if name in ("full", f"{min(TYPES)} bits"):
            run.say(f"\n--- {name} ---\n{config.prompt}{words.decode(ids[0].tolist())}")
    run.say("")
    for name, (rate, same, nbytes) in found.items():
        share = nbytes / found["full"][2]
        run.say(f"{name:7} {rate:8.1f} tokens/s   {nbytes / 1e6:7.3f} MB, {share:6.1%} of the full cache's   "
                f"the first {same} of {n} tokens agree")  # fmt: skip
    picture = sizes(model, kinds, size)
    run.say(f"picture: {plots.save(picture, run.folder / 'bytes.png')}")
    metrics = {}
    for name, (rate, same, nbytes) in found.items():
        own = {"tokens_per_s": rate, "agree": same / n, "MB": nbytes / 1e6}
        metrics |= {f"{key}, {name}": value for key, value in own.items()}
    run.finish(metrics)


def sizes(model, kinds, longest):
    """Bytes of a cache by the length that it is made for: codes, and on top what is kept as it came."""
    fig, ((ax,),) = plots.figure()
    lengths = sorted({longest * i // 8 for i in range(1, 9)} - {0})
    for name, kind in kinds.items():
        taken = [sum(held(cache) for cache in caches_for(model, kind, 1, n)) / 1e6 for n in lengths]
        ax.plot(lengths, taken, label=name)
    ax.set(title="Memory of a cache, its window included", xlabel="tokens", ylabel="MB", ylim=(0, None))
    plots.legend(ax)
    return fig


if __name__ == "__main__":
    script(main, PRESETS)
