"""Text from the base model in chunks and in shares: the same words; then one token over a long cache.

The kernel takes part where Triton is installed; without a GPU it is interpreted, and asked for few tokens.
"""

import time
from dataclasses import dataclass

import torch

from common import hub, plots, profiling
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.script import script
from common.errors import demand
from common.generate import Sampling, generate
from common.model import set_attend

from ._sides import SIDES, bytes_of, inputs, kernel, repeated, steps_of


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    prompt: str = "In the morning"
    """What the text begins with."""
    max_tokens: int = 60
    """New tokens."""
    interpreted: int = 4
    """New tokens of the kernel where it is interpreted, without a GPU."""
    cache: int = 16_384
    """Keys of the long cache, in float32; random numbers, as far as no model of ours remembers."""
    heads: int = 8
    """Query heads there."""
    kv_heads: int = 1
    """Key heads there."""
    head_dim: int = 64
    """Numbers to a head there."""

    def __post_init__(self):
        least = min(self.max_tokens, self.interpreted, self.cache, self.kv_heads, self.head_dim)
        demand(least >= 1, "max_tokens, interpreted, cache, kv_heads and head_dim must be at least 1")
        demand(self.heads % self.kv_heads == 0 < self.heads, "heads must be a multiple of kv_heads")
        demand(self.prompt, "the prompt is empty: give at least one character")


PRESETS = {"smoke": Config(max_tokens=6, interpreted=1, cache=64, head_dim=16), "cpu": Config(),
           "gpu": Config(max_tokens=300, cache=131_072, heads=32, kv_heads=8, head_dim=128)}  # fmt: skip


def texts(model, tokenizer, config, run):
    """{side: ids}; the text of each is printed."""
    ids, found = tokenizer.encode(config.prompt), {}
    sides = {name: (fn, config.max_tokens) for name, fn in SIDES.items()}
    if triton := kernel(model.config.head_dim, run.say):
        short = triton.INTERPRETED or run.device.type == "cpu"
        sides["triton"] = triton.attend, min(config.interpreted if short else 10**9, config.max_tokens)
    for name, (attend, tokens) in sides.items():
        greedy, started = Sampling(max_tokens=tokens, temperature=0.0), time.perf_counter()
        answer = generate(set_attend(model, attend), [ids], greedy, tokenizer=tokenizer)[0]
        rate = len(answer.ids) / (time.perf_counter() - started)
        found[name] = answer.ids
        run.say(f"\n{name}, {rate:.0f} tokens/s:\n  {config.prompt}{answer.text}")
    return found


def agreement(found, say):
    """The share of the other sides' tokens that are torch's."""
    want = found["torch's SDPA"]
    same = [a == b for ids in found.values() for a, b in zip(ids, want, strict=False)]
    say(
        f"\n{sum(same)} of {len(same)} tokens are those of torch's SDPA"
        + ("" if all(same) else ": where two are equally likely, the last digit decides what follows")
    )
    return sum(same) / len(same)


@torch.no_grad()
def step(config, run):
    """{side: (seconds, peak bytes)} of one query over a long cache."""
    q, k, v = inputs(1, config.heads, config.kv_heads, 1, config.cache, config.head_dim, device=run.device)
    G, found = config.heads // config.kv_heads, {}
    run.say(f"\none token over {config.cache:,} keys, {bytes_of(k, v) / 1e6:.1f} MB of them; as many again "
            f"{G} times, {bytes_of(repeated(k, G), repeated(v, G)) / 1e6:.1f} MB, where heads are repeated:")
    alone = steps_of(q, k, v, threads=1)
    for name, call in steps_of(q, k, v).items():
        call()
        seconds = profiling.shortest(call, run.device, 0.3)
        found[name] = seconds, profiling.peak_of(alone[name], run.device) or 0
        run.say(f"  {name:20} {seconds * 1e3:8.2f} ms {bytes_of(k, v) / seconds / 1e9:6.1f} GB/s"
                f"{found[name][1] / 1e6:9.1f} MB held")
    return found


def picture(config, found, path):
    fig, ((left, right),) = plots.figure(1, 2, width=9, height=3.4)
    for ax, place, unit, by in ((left, 0, "time, ms", 1e-3), (right, 1, "memory beside the cache, MB", 1e6)):
        bars = ax.barh(list(found), [row[place] / by for row in found.values()], color=plots.COLOURS[:5])
        ax.bar_label(bars, fmt="%.3g", padding=4, fontsize=11)
        ax.set(xlabel=unit)
        ax.margins(x=0.2)
        ax.invert_yaxis()
    right.set_yticks([])
    fig.suptitle(f"One token over {config.cache:,} keys, {config.heads} query heads, {config.kv_heads} key "
                 f"head{'s' * (config.kv_heads > 1)}", fontsize=13)  # fmt: skip
    return plots.save(fig, path)


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    model, tokenizer = hub.load(folder, device=run.device), tokenizers.load(folder)
    metrics = {"agreement": agreement(texts(model, tokenizer, config, run), run.say)}
    found = step(config, run)
    run.say(f"picture: {picture(config, found, run.folder / 'step.png')}")
    for name, (seconds, held) in found.items():
        metrics |= {f"{name}: seconds": seconds, f"{name}: peak bytes": held}
    run.finish(metrics)


if __name__ == "__main__":
    script(main, PRESETS)
