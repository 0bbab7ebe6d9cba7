"""The same small training in every precision: loss, speed, and where the memory goes.

One start, the same batches. float16 needs its scaler; float8 is emulated where no unit computes it.
"""

from dataclasses import dataclass

from common import plots
from common.cli.script import script
from common.errors import UserError

from ._lab import PRECISIONS, Town, fit, memory, model_of, side


@dataclass(frozen=True)
class Config:
    precisions: tuple[str, ...] = tuple(PRECISIONS)
    """Which precisions, of fp32, bf16, bf16-masters, fp16 and fp8; the first is what others are held
    against."""
    steps: int = 150
    """Updates of each training."""
    learning_rate: float = 3e-3
    """Highest size of an update; it warms up over a tenth of the run and falls to a tenth of itself."""
    n_layer: int = 4
    """Blocks, one above the other."""
    d_model: int = 128
    """Numbers per token."""
    context: int = 128
    """Bytes that the model sees at once."""
    batch_size: int = 4
    """Rows in an update; few, as a processor without units for float16 takes its time with each."""
    characters: int = 400_000
    """Characters of TinyTown to train on."""
    seed: int = 1337
    """Start of the random numbers: the weights."""

    def __post_init__(self):
        if strange := set(self.precisions) - set(PRECISIONS):
            known = ", ".join(PRECISIONS)
            raise UserError(f"no precision is called {', '.join(sorted(strange))}: there are {known}")
        if not self.precisions:
            raise UserError("no precision is named: give one or more, such as --precisions fp32 bf16")
        if min(self.steps, self.n_layer, self.context) < 1:
            raise UserError("steps, n_layer and context must be at least 1")
        if self.batch_size < 2 or self.batch_size % 2:
            raise UserError(f"batch_size is {self.batch_size}: it must be even, as half of it is "
                            "run as well, to tell memory that grows with it from memory that does not")
        if self.d_model < 8 or self.d_model % 8:
            raise UserError(f"d_model is {self.d_model}: it must be a multiple of 8, for four even heads")
        if self.characters < 100 * self.context:
            raise UserError(f"characters is {self.characters}: give at least a hundred times the context")


PRESETS = {"smoke": Config(steps=4, n_layer=2, d_model=32, context=32, batch_size=2, characters=20_000),
           "cpu": Config(),
           "gpu": Config(steps=2000, n_layer=12, d_model=768, context=512, batch_size=32,
                         learning_rate=6e-4, characters=20_000_000)}  # fmt: skip


def draw(losses, held):
    """Left, the losses; right, the memory."""
    fig, ((left, right),) = plots.figure(1, 2, width=11)
    for name, line in losses.items():
        left.plot(line, label=name, linewidth=1.2)
    left.set(xlabel="update", ylabel="loss, nats a byte")
    plots.legend(left)
    bottom = dict.fromkeys(held, 0.0)
    for part in next(iter(held.values())):
        heights = [held[name][part] / 1e6 for name in held]
        right.bar(list(held), heights, bottom=list(bottom.values()), label=part)
        bottom = {name: bottom[name] + height for name, height in zip(held, heights, strict=True)}
    right.set(ylabel="MB")
    right.tick_params(axis="x", labelsize=9)
    plots.legend(right)
    return fig


def main(config, run):
    town = Town(config.characters, config.context, config.batch_size, run.device)
    metrics, losses, held = {}, {}, {}
    for name in config.precisions:
        one = side(name, model_of(config, run.device))
        seconds = fit(one, town, config.steps, config.learning_rate)
        losses[name], held[name] = one.losses, memory(one, town.batch(0))
        found = {"val_loss": town.judge(one.objective), "skipped": one.skipped,
                 "tokens_per_s": config.batch_size * config.context / seconds, **held[name]}  # fmt: skip
        parts = ", ".join(f"{part} {size / 1e6:.1f}" for part, size in held[name].items())
        run.say(f"{name}: {PRECISIONS[name]}\n  {found['val_loss']:.4f} nats a byte on unseen text, "
                f"{found['tokens_per_s']:,.0f} tokens/s, {one.skipped} updates skipped; MB: {parts}")
        metrics |= {f"{name}: {key}": value for key, value in found.items()}
    first = metrics[f"{config.precisions[0]}: val_loss"]
    for name in config.precisions[1:]:
        apart = metrics[f"{name}: val_loss"] / first - 1
        run.say(f"{name}: loss {apart:+.2%} beside {config.precisions[0]}")
        metrics[f"{name}: apart"] = apart
    run.say(f"picture: {plots.save(draw(losses, held), run.folder / 'precisions.png')}")
    run.finish(metrics, corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
