"""See and break: look into a trained GPT, then take it apart and watch what each part was good for.

It uses the newest finished run of the same preset and trains one if there is none. `--parts heads mask` does
those only. Every part prints what it found and saves a picture.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from common import plots
from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _ablations, _break, _see, generate, train
from .text import complete, split, split_loss

PARTS = ("heads", "positions", "sampling", "mask", "qkv", "order", "ablations", "start")


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = PARTS
    """Which experiments."""
    corpus: str = "shakespeare"
    """Name of a corpus, or a UTF-8 text file of your own."""
    steps: int = 1000
    """Steps of each small training; of each ablation, of which there are many, half as many."""
    seeds: int = 3
    """Trainings of each ablation, from different starts."""
    frames: int = 36
    """Pictures in the film of the positions."""
    rows: int = 64
    """Texts for each setting of sampling."""
    windows: int | None = None
    """Windows of the validation split to judge on; all of them if not given."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, PARTS)
        if min(self.steps, self.seeds, self.frames, self.rows) < 1:
            raise UserError("steps, seeds, frames and rows must all be at least 1")


PRESETS = {"smoke": Config(steps=3, seeds=1, frames=2, rows=4, windows=4), "cpu": Config()}


class Lab(explore.Album):
    """What the experiments share: the text, a trained model, and a place for pictures."""

    def __init__(self, config, run):
        super().__init__(config, run)
        text, self.corpus = train.read(config.corpus, run.say)
        self.words = set(text.split())
        self.characters, self.train_ids, self.val_ids = split(text, context=64)
        self.blind = math.log(len(self.characters))

    @cached_property
    def model(self):
        """The newest finished model of this preset and corpus, or one trained now."""
        if folder := generate.newest(self.run.preset, self.corpus):
            self.run.say(f"the model of {folder}")
            return generate.load(folder)[0]
        self.run.say(f"no finished run of preset {self.run.preset} on {self.corpus} yet: training one first")
        sizes = replace(train.PRESETS[self.run.preset], corpus=self.config.corpus)
        return generate.trained(sizes, self.run.folder / "model", "cpu", self.run.say)[0]


def heads(lab):
    """Where every head looks, and what it is worth."""
    text = complete(lab.model, lab.characters, n=lab.model.config.max_seq_len - 1, temperature=0.5, seed=3)
    weights = _see.head_weights(lab.model, torch.tensor(lab.characters.encode(text)))
    costs = _see.cost_of_silence(lab.model, lab.val_ids, windows=lab.config.windows)
    lab.save(_see.draw_heads(weights, costs), "heads.png")
    layer, head = divmod(int(costs.argmax()), costs.size(1))
    title = f"layer {layer + 1}, head {head + 1}: the one the model misses most"
    lab.save(_see.draw_head(weights[layer, head][:32, :32], text[:32], title), "head.png")
    lab.run.say(f"  silencing one head costs {costs.min():+.3f} to {costs.max():+.3f} nats")
    return {"dearest_head": costs.max().item(), "cheapest_head": costs.min().item()}


def positions(lab):
    """The same word twice, told apart by its place: a film."""
    film = lab.run.folder / "positions.gif"
    lab.keep(plots.animate(_see.film_of_positions(lab.config.frames), lab.config.frames, film))
    return {}


def sampling(lab):
    """Temperature, top-k and top-p: entropy against diversity. Temperature 0 goes round in circles."""
    how = {"words": lab.words, "rows": lab.config.rows, "seed": 0}
    line = {t: _see.sampling(lab.model, lab.characters, temperature=t, **how)
            for t in (0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)}
    points = {"top-k 5": _see.sampling(lab.model, lab.characters, k=5, **how),
              "top-p 0.9": _see.sampling(lab.model, lab.characters, p=0.9, **how)}
    lab.save(_see.draw_sampling(line, points), "sampling.png")
    lab.run.say("  temperature 0:\n" + complete(lab.model, lab.characters, n=240, temperature=0))
    return {"distinct_at_0": line[0][1], "distinct_at_1": line[1.0][1], "words_at_1": line[1.0][2]}


def mask(lab):
    """Remove the mask: on noise, where ln V is all that is honest, the loss falls to ln(V)/T."""
    V, T, steps = 16, 16, lab.config.steps
    curves, places = {}, {}
    for name, causal in (("with the mask", True), ("without", False)):
        curves[name], places[name] = _break.leak(causal, steps=steps, symbols=V, context=T)
    lab.save(_break.draw_leak(curves, places["without"], math.log(V) / T, math.log(V)), "mask.png")
    open_eyed = _break.trained_without_mask(lab.characters, lab.train_ids, steps=steps)
    cheating = split_loss(open_eyed, lab.val_ids, lab.config.windows)
    prompt = lab.characters.decode(lab.val_ids[:40].tolist())
    text = complete(open_eyed.eval(), lab.characters, prompt, n=60)
    lab.run.say(f"  without the mask a small model reports {cheating:.3f} nats on the corpus; from\n"
                f"  {prompt!r} it goes on\n  {text[len(prompt) :]!r}")
    return {"noise_masked": curves["with the mask"][-1], "noise_unmasked": curves["without"][-1],
            "corpus_unmasked": cheating}


def qkv(lab):
    """Exchange or silence q, k and v: in a trained model, and before training."""
    patients = _break.surgery(lab.model).items()
    after = {name: split_loss(model, lab.val_ids, lab.config.windows) for name, model in patients}
    curves = _break.retrain(lab.characters, lab.train_ids, steps=lab.config.steps)
    lab.save(_break.draw_surgery(after, curves, lab.blind), "qkv.png")
    for name, value in after.items():
        lab.run.say(f"  {name:8} {value:.3f} nats")
    return {f"trained_{name}": value for name, value in after.items()}


def order(lab):
    """Take the positions away where order is the whole task."""
    shares = {}
    for kind, causal in (("causal", True), ("both ways", False)):
        for what, placed in (("with positions", True), ("without", False)):
            shares[f"{kind}, {what}"] = _break.tell_the_neighbour(causal, placed, steps=lab.config.steps)
    lab.save(_break.draw_order(shares), "order.png")
    for name, share in shares.items():
        lab.run.say(f"  {name:26} {share:.1%} right")
    return {f"neighbour_{name}": share for name, share in shares.items()}


def ablations(lab):
    """One part exchanged at a time, the whole validation split, several seeds."""
    data = (len(lab.characters), lab.train_ids, lab.val_ids)
    how, found = {"steps": -(-lab.config.steps // 2), "windows": lab.config.windows}, {}
    for name, parts in _ablations.LADDER.items():
        seeds = range(lab.config.seeds)
        found[name] = [_ablations.ablate(parts, *data, seed=seed, **how) for seed in seeds]
        lab.run.say(f"  {name:40} " + "  ".join(f"{value:.3f}" for value in found[name]))
    lab.save(_ablations.draw(found), "ablations.png")
    return {f"{name}, seed {seed}": value for name, row in found.items() for seed, value in enumerate(row)}


def start(lab):
    """The spread of the first weights, and the eps in the norms."""
    data = (lab.characters, lab.train_ids, lab.val_ids)
    how = {"steps": lab.config.steps, "windows": lab.config.windows}
    stds = {std: _break.start(*data, **how, init_std=std) for std in (0.002, 0.02, 0.2, 1.0)}
    epss = {eps: _break.start(*data, **how, norm_eps=eps) for eps in (1e-8, 1e-5, 1e-2, 1e1)}
    lab.save(_break.draw_start(stds, epss, lab.blind), "start.png")
    return {**{f"init_std_{std:g}": last for std, (_, last) in stds.items()},
            **{f"norm_eps_{eps:g}": last for eps, (_, last) in epss.items()}}


EXPERIMENTS = dict(zip(PARTS, (heads, positions, sampling, mask, qkv, order, ablations, start), strict=True))


def main(config, run):
    lab = Lab(config, run)
    run.finish(explore.each(lab, EXPERIMENTS), corpus=lab.corpus)


if __name__ == "__main__":
    script(main, PRESETS)
