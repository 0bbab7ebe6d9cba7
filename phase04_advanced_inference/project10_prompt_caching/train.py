"""Train vectors: a model whose mean hidden state says which passage answers a question."""

from dataclasses import dataclass
from pathlib import Path

from common import hub, plots, tokenizer
from common.cli import chain
from common.cli.script import script
from common.errors import UserError
from data.tinytown import TinyTown

from . import _dense, _fusion


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of the model to begin with; empty: models/base, or a tiny one made now."""
    steps: int = 150
    """Updates."""
    people: int = 8
    """People of a batch; of each, all that training may ask, about six questions with their passages."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    population: int = 100
    """People of the town."""
    each: int = 200
    """Questions of each kind that the vectors are judged by, and visitors."""
    against: str = ""
    """Folder of an encoder (sentence-transformers, for one) to judge beside ours; empty: none."""
    seed: int = 0
    """Of the batches."""

    def __post_init__(self):
        if min(self.steps, self.each) < 1:
            raise UserError("steps and each must be at least 1")
        if self.against and not Path(self.against).is_dir():
            raise UserError(f"{self.against} is no folder: give one that holds an encoder")


PRESETS = {"smoke": Config(steps=2, people=2, population=20, each=12), "cpu": Config(),
           "gpu": Config(steps=1000, people=32, population=400, each=500)}  # fmt: skip


def main(config, run):
    folder, town = chain.find("base", config.model, say=run.say), TinyTown(population=config.population)
    model, words = hub.load(folder, device=run.device).eval(), tokenizer.load(folder)
    corpus = _dense.corpus(town, config.each)

    def judged(name, vectors_of):
        run.say(f"\n{name}:")
        return _fusion.tell_ladder(_fusion.Sides(corpus, vectors_of), run.say)

    def ours(texts):
        return _dense.vectors(model, words, texts)

    before = judged("as it came, never trained for this", ours)
    run.say("\ntraining:")
    _, losses = _dense.train(model, words, town, config.steps, config.people, config.learning_rate,
                             config.seed, run.say)  # fmt: skip
    after = judged("trained", ours)
    if config.against:
        judged(config.against, lambda texts: _dense.foreign(config.against, texts))
    sides = _fusion.Sides(corpus, ours)
    run.say(f"\npicture: {plots.save(_fusion.weight_map(sides), run.folder / 'weights.png')}")
    hub.save(model, run.folder / "model", tokenizer=words, card={
        "made_by": "project10_prompt_caching", "command": "train", "begun with": folder.name})  # fmt: skip
    run.say(f"model: {run.folder / 'model'}")
    run.finish({"loss": losses[-1], "dense before": before["dense alone"], **after}, corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
