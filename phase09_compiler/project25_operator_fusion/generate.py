"""Text from the base model as it is and fused: the same words; kernels, bytes and time of a step."""

import time
from dataclasses import dataclass

import torch

from common import plots
from common import tokenizer as tokenizers
from common.cli.script import script
from common.errors import demand
from common.generate import Sampling, generate

from ._sides import kernels, models, step_of
from .traffic import Traffic


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    prompt: str = "In the morning"
    """What the text begins with."""
    max_tokens: int = 200
    """New tokens."""

    def __post_init__(self):
        demand(self.max_tokens >= 1, "max_tokens must be at least 1")
        demand(self.prompt, "the prompt is empty: give at least one character")


PRESETS = {"smoke": Config(max_tokens=6), "cpu": Config(), "gpu": Config()}


def ops_for(device, say):
    """The kernels for a device: C++ on a CPU, Triton on a GPU."""
    if device.type == "cuda":  # pragma: no cover - gpu
        from . import _gpu

        return _gpu.kernels()
    return kernels(say)


def written(model, tokenizer, config, run, name):
    """(ids, tokens/s); the text is printed."""
    ids, greedy = tokenizer.encode(config.prompt), Sampling(max_tokens=config.max_tokens, temperature=0.0)
    generate(model, [ids], Sampling(max_tokens=4, temperature=0.0), tokenizer=tokenizer)  # the first is slow
    started = time.perf_counter()
    answer = generate(model, [ids], greedy, tokenizer=tokenizer)[0]
    speed = len(answer.ids) / (time.perf_counter() - started)
    run.say(f"\n{name}, {speed:.0f} tokens/s:\n  {config.prompt}{answer.text}")
    return answer.ids, speed


def counted(model, prompt):
    """(kernels, bytes) of one step."""
    step = step_of(model, prompt)
    with Traffic() as found:
        step()
    return found.kernels.total(), found.bytes


def picture(found, path):
    fig, (axes,) = plots.figure(1, 3, width=10, height=2.6)
    what = ("kernels in a step", "{:,.0f}"), ("MB moved", "{:.1f}"), ("tokens/s", "{:,.0f}")
    for place, (ax, (title, shown)) in enumerate(zip(axes, what, strict=True)):
        numbers = [row[place] / (1e6 if place == 1 else 1) for row in found.values()]
        bars = ax.barh(list(found), numbers, color=plots.COLOURS[:2])
        ax.bar_label(bars, [shown.format(x) for x in numbers], padding=4, fontsize=11)
        ax.set(title=title, xticks=[])
        ax.margins(x=0.3)
        ax.invert_yaxis()
        if place:
            ax.set_yticks([])
    return plots.save(fig, path)


def main(config, run):
    folder, plain, fused = models(config.model, run, ops_for(run.device, run.say))
    tokenizer, found, texts = tokenizers.load(folder), {}, {}
    prompt = torch.tensor([tokenizer.encode(config.prompt)], device=run.device)
    for name, model in (("as it is", plain), ("fused", fused)):
        texts[name], speed = written(model, tokenizer, config, run, name)
        found[name] = *counted(model, prompt), speed
    same = sum(a == b for a, b in zip(*texts.values(), strict=False)) / max(map(len, texts.values()))
    run.say(
        "\nthe two texts agree, token for token"
        if same == 1
        else f"\n{same:.0%} of the tokens agree: where two are equally likely, the last digit decides"
    )
    for name, (count, moved, speed) in found.items():
        run.say(f"{name:10} {count:5} kernels and {moved / 1e6:6.1f} MB a step, {speed:7.0f} tokens/s")
    run.say(f"picture: {picture(found, run.folder / 'step.png')}")
    (a, b, c), (d, e, f) = found.values()
    counts = {"kernels": a, "kernels fused": d, "bytes": b, "bytes fused": e}
    run.finish({"same": same, "speed-up": f / c, **counts})


if __name__ == "__main__":
    script(main, PRESETS)
