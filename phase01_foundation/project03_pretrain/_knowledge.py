"""What it takes to know: facts told many times, some of them asked for, and names that move fast enough."""

from functools import partial

from common import plots
from common import tokenizer as tokenizers
from data.tinytown import TinyTown

from . import _build, _text, probe
from ._lab import Lab, fit
from .objectives import CausalLM

PEOPLE, VOCABULARY, ROWS, CONTEXT = 50, 2_000, 8, 128
CHARACTERS = 4  # of a token, about
SIZES = {"n_layer": 3, "d_model": 128, "d_ff": 320}
VARIANTS = {  # (the share of question pages, how many times faster the embedding moves)
    "as in train": (0.2, _build.EMBEDDING),
    "the embedding no faster": (0.2, 1.0),
    "no questions in the text": (0.0, _build.EMBEDDING),
}


class Town(Lab):
    """A lab in a town of fifty, whose names are tokens of their own."""

    def __init__(self, lab: Lab, asking: float):
        self.config, self.run, self.context, self.rows = lab.config, lab.run, CONTEXT, ROWS
        self.town = TinyTown(population=PEOPLE, asking=asking)
        pages = list(_text.at_most(self.town.pages(), CHARACTERS * lab.config.knowledge))
        folder = lab.run.folder / "town"
        if not (folder / "tokenizer.json").is_file():  # one for all variants
            _text.learn_tokenizer(pages, VOCABULARY, folder)
        self.tokenizer = tokenizers.load(folder)
        self.ids = self.encode(pages)

    def knows(self, model, form: str) -> float:
        """The share of held-out pairs that the model answers."""
        return probe.knows(model, self.tokenizer, self.town, form)


def variant(lab: Lab, asking: float, faster: float) -> dict[str, list[tuple[int, float]]]:
    """{"plain" and "cloze": [(tokens, share of held-out pairs answered)]} over one training."""
    town = Town(lab, asking)
    model = town.model(**SIZES)
    config = town.settings(steps=max(2, lab.config.knowledge // (ROWS * CONTEXT)), learning_rate=6e-3)
    found: dict[str, list[tuple[int, float]]] = {"plain": [], "cloze": []}

    def watch(step):
        if (step + 1) % max(1, config.steps // 8) == 0 or step + 1 == config.steps:
            for form, points in found.items():
                points.append(((step + 1) * ROWS * CONTEXT, town.knows(model.eval(), form)))
            model.train()

    make = partial(_build.muon, embedding=faster)
    fit(CausalLM(model), town.batches(), config, make, watch)
    return found


def knowledge(lab: Lab) -> dict:
    """Facts of a town of fifty: told in every run, asked for in two of the three."""
    fig, (axes,) = plots.figure(1, 2, width=11.0, height=4.6)
    found = {}
    for name, (asking, faster) in VARIANTS.items():
        points = variant(lab, asking, faster)
        for ax, (form, curve) in zip(axes, points.items(), strict=True):
            ax.plot(*zip(*curve, strict=True), marker="o", label=name)
            found[f"{form}, {name}"] = curve[-1][1]
        row = "   ".join(f"{form} " + " ".join(f"{share:4.0%}" for _, share in curve)
                         for form, curve in points.items())  # fmt: skip
        lab.run.say(f"  {name:26} {row}")
    for ax, title in zip(axes, ("questions never asked in training", "the same as sentences"), strict=True):
        plots.level(ax, TinyTown(population=PEOPLE).guessing(), "guessing")
        ax.set(title=title, xlabel="tokens read", ylabel="right answers", ylim=(-0.02, 1.05))
    plots.legend(axes[0])
    lab.save(fig, "knowledge.png")
    return found
