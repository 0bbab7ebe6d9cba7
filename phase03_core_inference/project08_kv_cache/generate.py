"""The same text twice, without a cache and with one: do they agree, how fast, in how much memory?"""

from dataclasses import dataclass

import torch

from common import hub, plots, tokenizer
from common.cli import chain
from common.cli.script import script
from common.errors import UserError
from common.generate import Sampling

from ._modes import MODES, equal_but_ties, measure
from ._theory import cost_of
from .kv_cache import check_room, drawn, greedy


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    prompt: str = "Mara lives in"
    """The text to go on with."""
    max_tokens: int = 200
    """New tokens; fewer where the model's context is shorter."""
    temperature: float = 0.8
    """Of the draw; 0 takes the likeliest token."""
    seed: int = 0
    """Of the draw: both modes draw alike."""

    def __post_init__(self):
        if not self.prompt:
            raise UserError("the prompt is empty: give a word to begin with, --prompt Once")
        Sampling(max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed)


PRESETS = {"smoke": Config(max_tokens=16), "cpu": Config(), "gpu": Config(max_tokens=400)}


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    model, words = hub.load(folder, device=run.device).eval(), tokenizer.load(folder)
    tokens = torch.tensor([words.encode(config.prompt)], device=run.device)
    check_room(model, tokens.size(1), 1)
    n = min(config.max_tokens, model.config.max_seq_len - tokens.size(1) + 1)
    sampling = Sampling(max_tokens=n, temperature=config.temperature, seed=config.seed)
    choose = drawn([sampling]) if config.temperature else greedy
    for mode in MODES:  # the first run of a process is slow, whatever it does
        measure(model, tokens, 2, mode, choose)
    runs = {mode: measure(model, tokens, n, mode, choose) for mode in MODES}
    cost, parameters = cost_of(model), sum(p.numel() for p in model.parameters())
    run.say(f"{folder.name}: {parameters:,} weights, a prompt of {tokens.size(1)} tokens and {n} new ones")
    for mode, found in runs.items():
        run.say(f"\n--- {mode} ---\n{config.prompt}{words.decode(found.ids[0].tolist())}")
    agree = torch.equal(*(found.ids for found in runs.values()))
    run.say(f"\n{'the two texts agree, token for token' if agree else 'THE TEXTS DIFFER'}")
    if not agree and not equal_but_ties(model, tokens, *(found.ids for found in runs.values())):
        run.say("and not by a tie: where they part, one token is clearly likelier")
    for mode, found in runs.items():
        run.say(f"{mode:9} {n / found.total:8.1f} tokens/s   fed {sum(found.seen.fed):7,} tokens   "
                f"cache {found.cache_bytes / 1e6:6.2f} MB")  # fmt: skip
    without, cached = (runs[mode].total for mode in MODES)
    operations = cost.totals(tokens.size(1), n)
    run.say(f"{without / cached:.1f} times as fast, with {operations[0] / operations[1]:.0f} times fewer "
            "operations; what a step with a cache waits for is memory and Python")  # fmt: skip
    run.say(f"picture: {plots.save(picture(runs, tokens.size(1)), run.folder / 'steps.png')}")
    run.finish({"agree": float(agree), "speed_up": without / cached,
                **{f"tokens_per_s, {mode}": n / runs[mode].total for mode in MODES}})  # fmt: skip


def picture(runs, prompt):
    """Milliseconds of each token in both modes, against the length of the text so far."""
    fig, ((ax,),) = plots.figure()
    for mode, found in runs.items():
        ax.plot(range(prompt, prompt + len(found.seconds)), [1e3 * s for s in found.seconds], label=mode)
    ax.set(title="Each token anew, or only the new one", xlabel="tokens before it", ylabel="ms for a token")
    ax.set_ylim(bottom=0)
    plots.legend(ax)
    return fig


if __name__ == "__main__":
    script(main, PRESETS)
