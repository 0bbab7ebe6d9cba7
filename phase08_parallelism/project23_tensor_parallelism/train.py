"""Train one model on several ranks, each with a part of every matrix; a killed rank is started again.

Without torchrun this starts it, on this machine, and says how. Under torchrun it is a rank, as it may be on
several machines. Every rank writes its share of the checkpoints, and any number of ranks can read them.
"""

from dataclasses import dataclass

import torch.distributed as dist

from common.cli.script import script
from common.errors import demand
from common.recipe import TrainConfig

from . import _rank, torchrun


@dataclass(frozen=True)
class Config:
    ranks: int = 2
    """Processes to start here; under torchrun, which has started them, it is not looked at."""
    parts: int = 0
    """Ranks that share one model; the others have rows of their own (data parallelism). 0: all of them."""
    sequence: bool = False
    """Sequence parallelism: norms and residuals of T/N rows on each rank."""
    ring: bool = False
    """Our own ring in place of torch.distributed's collectives."""
    n_layer: int = 4
    """Blocks."""
    n_head: int = 8
    """Query heads."""
    n_kv_head: int = 4
    """Key and value heads."""
    d_model: int = 128
    """Numbers per token."""
    d_ff: int = 344
    """Numbers inside a feed-forward."""
    dropout: float = 0.0
    """Share of numbers left out in training; alike on all ranks that share a model."""
    context: int = 256
    """Bytes of a row, which are its tokens."""
    batch_size: int = 8
    """Rows in an update, over all ranks."""
    steps: int = 300
    """Updates."""
    learning_rate: float = 2e-3
    """Highest size of an update; it warms up over a tenth and falls to a tenth."""
    checkpoints: int = 5
    """Checkpoints, each with an evaluation, over the run."""
    restarts: int = 2
    """How often torchrun starts the ranks again when one has died."""
    patience: float = 60.0
    """Seconds that a rank waits for another before it says so and ends."""
    seed: int = 1337
    """Of the weights and of the order of the text."""

    def __post_init__(self):
        least = min(self.ranks, self.steps, self.checkpoints, self.batch_size, self.context)
        demand(
            least >= 1 and self.parts >= 0 and self.restarts >= 0,
            "ranks, steps, checkpoints, batch_size and context must be at least 1, parts and restarts 0",
        )
        demand(self.patience > 0, f"patience is {self.patience}: it must be above 0")
        demand(
            self.ranks % (self.parts or self.ranks) == 0,
            f"{self.ranks} ranks cannot be laid out in rows of {self.parts}: make ranks a multiple of parts",
        )

    @property
    def train_config(self):
        every = -(-self.steps // self.checkpoints)
        return TrainConfig(
            steps=self.steps,
            learning_rate=self.learning_rate,
            warmup=self.steps // 10,
            min_learning_rate=self.learning_rate / 10,
            beta2=0.95,
            eval_every=every,
            save_every=every,
            log_every=1,
        )


PRESETS = {
    "smoke": Config(
        n_layer=1,
        n_head=4,
        n_kv_head=2,
        d_model=32,
        d_ff=48,
        context=32,
        batch_size=4,
        steps=6,
        checkpoints=2,
    ),
    "cpu": Config(),
    "gpu": Config(
        n_layer=12,
        n_head=16,
        n_kv_head=8,
        d_model=1024,
        d_ff=2816,
        context=1024,
        batch_size=32,
        steps=2000,
        learning_rate=1e-3,
    ),
}


def main(config, run):
    if dist.is_torchelastic_launched() or config.ranks == 1:
        found = _rank.work(config, run.folder / "ranks", run.device, run.say)
    else:
        found = torchrun.start(_rank.__name__, config, run)
    if found:
        run.say(
            "{parameters:,} weights, {share:.1%} of them on each rank; {tokens_per_s:,.0f} tokens/s; "
            "unseen pages: {val_loss:.4f} nats a byte".format(**found)
        )
        run.finish(found, corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
