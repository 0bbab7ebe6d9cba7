"""Text from the base model with its own attention and tile by tile: the same words, and what each held.

The kernel takes part where Triton is installed; without a GPU it is interpreted, and asked for few tokens.
"""

import time
from dataclasses import dataclass

import torch

from common import hub, plots, profiling
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.script import script
from common.errors import UserError
from common.generate import Sampling, generate
from common.model import set_attend

from ._sides import SIDES, kernel


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    prompt: str = "In the morning"
    """What the text begins with."""
    max_tokens: int = 60
    """New tokens."""
    interpreted: int = 8
    """New tokens of the kernel where it is interpreted, without a GPU."""
    length: int = 0
    """Tokens of the prompt whose memory is measured; 0: the model's whole context."""

    def __post_init__(self):
        if min(self.max_tokens, self.interpreted) < 1 or self.length < 0:
            raise UserError("max_tokens and interpreted must be at least 1, and length at least 0")
        if not self.prompt:
            raise UserError("the prompt is empty: give at least one character")


PRESETS = {"smoke": Config(max_tokens=6, interpreted=2), "cpu": Config(), "gpu": Config(max_tokens=300)}


def texts(model, tokenizer, config, run):
    """{side: (ids, tokens/s)}; the text of each is printed."""
    ids = tokenizer.encode(config.prompt)
    triton = kernel(model.config.head_dim, run.say)
    sides = {name: (fn, config.max_tokens) for name, fn in SIDES.items()}
    if triton:
        short = triton.INTERPRETED or run.device.type == "cpu"
        sides["triton"] = triton.attend, min(config.interpreted if short else 10**9, config.max_tokens)
    found = {}
    for name, (attend, tokens) in sides.items():
        greedy, started = Sampling(max_tokens=tokens, temperature=0.0), time.perf_counter()
        answer = generate(set_attend(model, attend), [ids], greedy, tokenizer=tokenizer)[0]
        found[name] = answer.ids, len(answer.ids) / (time.perf_counter() - started)
        run.say(f"\n{name}, {found[name][1]:.0f} tokens/s:\n  {config.prompt}{answer.text}")
    return found


def agreement(found, say):
    """How many of the other sides' tokens are torch's, and how many there are."""
    want = found["torch's SDPA"][0]
    same = [a == b for ids, _ in found.values() for a, b in zip(ids, want, strict=False)]
    say(
        f"\n{sum(same)} of {len(same)} tokens are those of torch's SDPA"
        + ("" if all(same) else ": where two are equally likely, the last digit decides what follows")
    )
    return sum(same) / len(same)


@torch.no_grad()
def prefill(model, config, run):
    """{side: (peak bytes, seconds)} of one pass over a long prompt."""
    T = min(config.length or model.config.max_seq_len, model.config.max_seq_len)
    tokens = torch.arange(T, device=run.device)[None] % model.config.vocab_size
    found = {}
    for name, attend in SIDES.items():
        set_attend(model, attend)
        model.hidden(tokens)  # warm
        seconds = profiling.shortest(lambda: model.hidden(tokens), run.device, 0.2)
        found[name] = profiling.peak_of(lambda: model.hidden(tokens), run.device) or 0, seconds
        run.say(f"  {name:14} {found[name][0] / 1e6:8.1f} MB {seconds * 1e3:8.1f} ms")
    return T, found


def picture(T, found, path):
    fig, ((left, right),) = plots.figure(1, 2, width=8.5, height=3)
    for ax, place, unit, by in ((left, 0, "peak memory, MB", 1e6), (right, 1, "time, ms", 1e-3)):
        bars = ax.barh(list(found), [row[place] / by for row in found.values()], color=plots.COLOURS[:3])
        ax.bar_label(bars, fmt="%.1f", padding=4, fontsize=11)
        ax.set(xlabel=unit)
        ax.margins(x=0.2)
        ax.invert_yaxis()
    right.set_yticks([])
    fig.suptitle(f"One pass over {T:,} tokens", fontsize=13)
    return plots.save(fig, path)


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    model, tokenizer = hub.load(folder, device=run.device), tokenizers.load(folder)
    found = texts(model, tokenizer, config, run)
    metrics = {"agreement": agreement(found, run.say)}
    run.say("\none pass over a long prompt, and what it holds at its peak:")
    T, passes = prefill(model, config, run)
    run.say(f"picture: {picture(T, passes, run.folder / 'prefill.png')}")
    for name, (peak, seconds) in passes.items():
        metrics |= {f"{name}: peak bytes": peak, f"{name}: seconds": seconds}
    run.finish(metrics)


if __name__ == "__main__":
    script(main, PRESETS)
