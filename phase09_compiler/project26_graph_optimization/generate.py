"""The same text twice, with the step as it is and with its graph rewritten: do they agree, and how fast?"""

import time
from dataclasses import dataclass

import torch

from common import hub, plots, tokenizer
from common.cli import chain
from common.cli.script import script
from common.errors import demand
from common.generate import Sampling
from phase03_core_inference.project08_kv_cache.kv_cache import (
    StaticCache,
    caches_for,
    check_room,
    decode_ragged,
)

from ._see import ladder
from .optimise import Optimised


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one made now."""
    prompt: str = "Mara lives in"
    """The text to go on with."""
    max_tokens: int = 200
    """New tokens; fewer where the model's context is shorter."""
    source: bool = False
    """Also print the step as it was written down, a line for each call."""

    def __post_init__(self):
        demand(self.prompt, "the prompt is empty: give a word to begin with, --prompt Once")
        Sampling(max_tokens=self.max_tokens)


PRESETS = {"smoke": Config(max_tokens=12), "cpu": Config(), "gpu": Config(max_tokens=400)}


def main(config, run):
    demand(run.device.type == "cpu", "our plan is for a CPU: add --device cpu (on a GPU, record the step: "
           "project 8)")  # fmt: skip
    folder = chain.find("base", config.model, say=run.say)
    model, words = hub.load(folder, dtype=torch.float32).eval(), tokenizer.load(folder)
    prompt = words.encode(config.prompt)
    check_room(model, len(prompt), 1)
    n = min(config.max_tokens, model.config.max_seq_len - len(prompt) + 1)
    caches = caches_for(model, StaticCache, 1, len(prompt) + n)
    step = Optimised(model, caches)
    before, after = step.applied[0], step.applied[-1]
    run.say(f"{before.computing} computing operations became {after.computing}, in {step.seconds:.2f} s, of "
            f"which capture {step.capture_seconds:.2f} s; {step.plan.calls} calls a step")  # fmt: skip
    if config.source:
        run.say(step.plan.source)
    found, seconds = {}, {}
    for name, call in {"as it is": None, "rewritten": step}.items():
        decode_ragged(
            model, [prompt], min(n, 4), caches, step=call
        )  # the first run is slow, whatever it does
        start = time.perf_counter()
        found[name] = decode_ragged(model, [prompt], n, caches, step=call)[0].tolist()
        seconds[name] = time.perf_counter() - start
        run.say(f"\n--- {name} ---\n{config.prompt}{words.decode(found[name])}")
    same = next((i for i, (a, b) in enumerate(zip(*found.values(), strict=True)) if a != b), n)
    parted = f"the texts part at token {same} of {n}: two tokens were nearly as likely"
    run.say("\n" + ("the two texts agree, token for token" if same == n else parted))
    for name, spent in seconds.items():
        run.say(f"{name:10} {n / spent:8.1f} tokens/s")
    gain = seconds["as it is"] / seconds["rewritten"]
    own = sum(x.nbytes for key, x in step.gm.named_buffers() if key.startswith("constant_"))
    run.say(f"{gain:.2f} times as fast; it holds {own / 1e6:.1f} MB of constants of its own and "
            f"{step.plan.bytes / 1e3:.0f} kB of results")  # fmt: skip
    run.say(f"picture: {plots.save(ladder(step.applied), run.folder / 'counts.png')}")
    run.finish({"same": same / n, "speed_up": gain, "computing": after.computing, "calls": step.plan.calls,
                **{f"tokens_per_s, {name}": n / spent for name, spent in seconds.items()}})  # fmt: skip


if __name__ == "__main__":
    script(main, PRESETS)
