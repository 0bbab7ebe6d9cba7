"""Train small models that differ in what they share: parameters, FLOPs, bytes on disk, speed, and loss.

All are drawn from the same seed and see the same batches. Each is saved, loaded again, and must then give
the same logits and still share what it shared.
"""

import sys
import time
from dataclasses import asdict, dataclass

import torch

from common import hub, plots
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.script import script
from common.errors import demand
from common.generate import Sampling, generate
from common.model import ModelConfig
from phase01_foundation.project03_pretrain import probe
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.town import Plan, Town

from . import _ways, folders, tying
from .layer_sharing import BY


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model whose tokenizer is used; empty: models/base, or where there is none, a tiny
    one made now."""
    ways: tuple[str, ...] = ("untied", "tied", "twice", "half")
    """What to share: see _ways.py."""
    n_layer: int = 6
    """Layers; some of the ways have as many blocks, some fewer."""
    n_head: int = 6
    """Query heads in a layer."""
    n_kv_head: int = 3
    """Key and value heads in a layer."""
    d_model: int = 192
    """Numbers per token."""
    d_ff: int = 768
    """Numbers inside a feed-forward."""
    steps: int = 400
    """Updates of each model."""
    learning_rate: float = 3e-3
    """Highest size of an update."""
    batch_size: int = 6
    """Rows in an update."""
    context: int = 128
    """Tokens of a row."""
    judged: int = 30_000
    """Tokens of unseen pages to judge by."""
    seed: int = 1337
    """Of the first weights and the order of the text."""

    def __post_init__(self):
        strange = sorted(set(self.ways) - set(_ways.WAYS))
        demand(not strange, f"no way is called {', '.join(strange)}: there are {', '.join(_ways.WAYS)}")
        demand(self.ways, "name at least one way")
        demand(self.judged > self.context, "judged must be more tokens than one context holds")
        self.plan  # noqa: B018 - says now what would be wrong later

    @property
    def plan(self):
        return Plan(self.steps, self.learning_rate, self.batch_size, self.context, self.seed)

    def sizes(self, vocab_size):
        return ModelConfig(vocab_size=vocab_size, n_layer=self.n_layer, n_head=self.n_head,
                           n_kv_head=self.n_kv_head, d_model=self.d_model, d_ff=self.d_ff,
                           max_seq_len=2 * self.context)  # fmt: skip


PRESETS = {
    "smoke": Config(n_layer=3, n_head=2, n_kv_head=1, d_model=32, d_ff=48, steps=4, batch_size=2, context=24,
                    judged=200),
    "cpu": Config(),
    "gpu": Config(n_layer=12, n_head=12, n_kv_head=12, d_model=768, d_ff=2048, steps=4000, batch_size=32,
                  context=512, learning_rate=6e-4, judged=400_000),
}  # fmt: skip


def kept(model, tokenizer, folder, card, tokens):
    """Save the model, load it again, and see that nothing was lost on the way; the bytes of its weights."""
    hub.save(model, folder, tokenizer=tokenizer, card=card)
    again = hub.load(folder, device=tokens.device, restore={BY: folders.restore})
    assert list(tying.names(again).values()) == list(tying.names(model).values()), "the sharing was lost"
    with torch.no_grad():
        assert torch.equal(again(tokens), model(tokens)), "the loaded model gives other logits"
    return (folder / "model.safetensors").stat().st_size


def speed(model, tokens, count):
    """Tokens a second, one row, greedily and with a cache."""
    sampling = Sampling(max_tokens=count, temperature=0.0, ignore_eos=True)
    generate(model, tokens[:, :4], sampling)
    start = time.perf_counter()
    generate(model, tokens[:, :4], sampling)
    return count / (time.perf_counter() - start)


def one(way, config, town, run):
    """Build, train, judge and save one model; its figures and its history."""
    model = _ways.build(way, config.sizes(town.tokenizer.vocab_size), config.seed, run.device)
    run.say(f"{way}: {_ways.WAYS[way][0]}; {tying.count(model):,} parameters, {config.steps} updates")
    folder = run.folder / way
    history = town.fit(CausalLM(model), config.plan, folder / "run", resume=run.resumed, say=run.say)
    tokens = town.held[None, : config.context]
    card = {"made_by": BY, "command": " ".join(sys.argv), "config": asdict(config), "way": way}
    found = {"parameters": tying.count(model), "flops": tying.flops(model),
             "bytes": kept(model, town.tokenizer, folder / "model", card, tokens),
             "tokens/s": speed(model, tokens, min(32, config.context)),
             "loss": town.loss(model, config.context)}  # fmt: skip
    text = probe.write(model, town.tokenizer, max_tokens=min(24, config.context // 2), seed=1)
    run.say(f"  writes: {' '.join(text.split())}")
    return found, history


def report(found, run):
    """The table, every row beside the first."""
    first = next(iter(found.values()))
    run.say(f"\n{'':14}{'parameters':>12}{'':>8}{'MFLOPs a token':>16}{'MB':>7}{'tokens/s':>10}{'loss':>9}")
    for way, row in found.items():
        fewer, change = row["parameters"] / first["parameters"] - 1, row["loss"] / first["loss"] - 1
        run.say(f"{way:14}{row['parameters']:12,}{fewer:8.1%}{row['flops'] / 1e6:16.1f}"
                f"{row['bytes'] / 1e6:7.1f}{row['tokens/s']:10.0f}{row['loss']:9.4f}{change:+8.2%}")
    run.say("saved, loaded again, and the same to the last bit: each folder holds what is shared once")


def draw(histories, found):
    """The losses of all models."""
    fig, ((ax,),) = plots.figure()
    for way, history in histories.items():
        ax.plot(*history.series("loss"), linewidth=1.1, label=f"{way}, {found[way]['parameters'] / 1e6:.2f}M")
    ax.set(xlabel="update", ylabel="nats a token")
    plots.legend(ax)
    return fig


def main(config, run):
    folder = chain.find("base", config.model, say=run.say)
    town = Town(tokenizers.load(folder), config.plan.text, config.judged, run.device)
    found, histories = {}, {}
    for way in config.ways:
        found[way], histories[way] = one(way, config, town, run)
    report(found, run)
    run.say(f"curves: {plots.save(draw(histories, found), run.folder / 'loss.png')}")
    run.finish({f"{way}: {key}": value for way, row in found.items() for key, value in row.items()},
               corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
