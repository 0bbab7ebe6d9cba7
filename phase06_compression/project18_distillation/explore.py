"""See and break: what a teacher says, how near a student comes, what for; a factor left out, bad teachers.

Every experiment prints what it found and saves a picture. `--parts directions` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import demand

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "soft": _see.soft, "decomposition": _see.decomposition, "agreement": _see.agreement,
    "relations": _see.relations, "directions": _see.directions, "teachers": _see.teachers,
    "policy": _see.policy, "factor": _break.factor, "tokenizers": _break.tokenizers,
    "teacher": _break.teacher}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """The teacher, a folder or name; empty: models/base, and where there is none, a tiny one made now."""
    second: str = ""
    """The teacher of answers; empty: models/sft, and where there is none, a tiny one made now."""
    n_layer: int = 2
    """Blocks of a student."""
    d_model: int = 128
    """Its numbers a token."""
    n_head: int = 4
    """Its query heads in a block."""
    n_kv_head: int = 2
    """Its key and value heads in a block."""
    d_ff: int = 320
    """Its numbers inside a feed-forward."""
    steps: int = 120
    """Updates of each training."""
    learning_rate: float = 6e-3
    """Highest size of an update."""
    batch_size: int = 8
    """Rows in an update."""
    context: int = 128
    """Tokens of a row."""
    temperature: float = 1.0
    """Of both models where they are compared."""
    alpha: float = 0.9
    """The teacher's share of the loss, where its logits are learned from."""
    beta: float = 1.0
    """Weight of its states and relations, where they are."""
    judged: int = 4_000
    """Tokens of unseen pages to judge by."""
    asked: int = 40
    """Conversations by which two teachers are judged."""
    drafts: int = 8
    """Texts that are written with a student as the draft."""
    new: int = 32
    """New tokens of each text."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""
    seed: int = 1337
    """Of the first weights and of the order of the text."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        least = min(self.steps, self.batch_size, self.context, self.asked, self.drafts, self.new)
        demand(least >= 1, "steps, batch_size, context, asked, drafts and new must be at least 1")
        demand(self.judged > self.context, "judged must be more tokens than one context holds")


TINY = {"n_layer": 1, "d_model": 16, "n_head": 2, "n_kv_head": 1, "d_ff": 24}
PRESETS = {
    "smoke": Config(**TINY, steps=3, batch_size=2, context=24, judged=120, asked=2, drafts=1, new=4),
    "cpu": Config(),
    "gpu": Config(n_layer=4, d_model=384, n_head=6, n_kv_head=6, d_ff=1024, steps=3000, batch_size=64,
                  context=512, learning_rate=2e-3, judged=100_000, asked=400, drafts=32, new=64),
}  # fmt: skip


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
