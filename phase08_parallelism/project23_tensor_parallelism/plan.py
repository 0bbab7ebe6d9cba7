"""How to spread a training over many GPUs: the quickest layouts that fit, by the formulas of layouts.py.

./thirty run 23 plan --params 70e9 --gpus 512
"""

from dataclasses import dataclass
from typing import Literal

from common import plots
from common.cli.script import script
from common.errors import demand

from ._published import PUBLISHED, predicted
from .layouts import MACHINES, Shape, best, costs


@dataclass(frozen=True)
class Config:
    params: float = 70e9
    """Weights of the model, a Llama; its shape is guessed from that."""
    gpus: int = 512
    """GPUs; tens of thousands are fine."""
    machine: Literal["A100", "H100"] = "H100"
    """Which."""
    context: int = 8192
    """Tokens of a sequence."""
    batch: int = 512
    """Sequences in an update."""
    show: int = 8
    """Layouts to show."""

    def __post_init__(self):
        demand(self.gpus >= 1 and self.show >= 1, "gpus and show must be at least 1")
        demand(self.context >= 1024, f"context is {self.context}: it must be at least 1024")


PRESETS = {
    "smoke": Config(params=1e9, gpus=8, batch=64),
    "cpu": Config(),
    "paper": Config(params=405e9, gpus=16_384, batch=2048),
}
HEAD = " tensor  pipe  data  ctx  blocks        GB        s    MFU  bubble   GB sent"


def line(layout, cost):
    """A layout and its costs as a line of the table."""
    sent = "  ".join(f"{getattr(cost, axis) / 1e9:.1f}" for axis in ("tensor", "pipeline", "data", "context"))
    kind = "recomputed" if layout.recompute else "kept"
    return (
        f"{layout.tensor:7}{layout.pipeline:6}{layout.data:6}{layout.context:5}  {kind:10}"
        f"{cost.memory / 1e9:6.1f}{cost.seconds:9.2f}{cost.mfu:7.1%}{cost.bubble:8.1%}   {sent}"
    )


def main(config, run):
    machine, shape = MACHINES[config.machine], Shape.guess(config.params, config.context, config.batch)
    run.say(
        f"{shape.n_params / 1e9:g}B weights, guessed: {shape.n_layer} blocks of {shape.d_model}, "
        f"{shape.n_head} query and {shape.n_kv_head} key/value heads; {config.batch} sequences of "
        f"{config.context:,} tokens an update; {config.gpus:,} {machine.name}"
    )
    found = best(shape, config.gpus, machine)
    run.say(
        f"{len(found)} layouts fit; the quickest (sent by a GPU in an update: tensor, pipeline, data, "
        f"context axis):\n{HEAD}"
    )
    for layout, cost in found[: config.show]:
        run.say(line(layout, cost))
    run.say("\nThe formulas beside published runs (share of the peak):")
    off = []
    for known in PUBLISHED:
        said = predicted(known)
        off.append(said / known.share - 1)
        memory = costs(known.shape, known.layout, known.machine).memory / 1e9
        run.say(
            f"  {known.name:40} published {known.share:.0%}  here {said:5.1%} {off[-1]:+4.0%} {memory:.0f} GB"
        )
    draw(run, found)
    layout, cost = found[0]
    run.finish(
        {
            "mfu": cost.mfu,
            "seconds": cost.seconds,
            "memory_gb": cost.memory / 1e9,
            "layouts": len(found),
            "tensor": layout.tensor,
            "pipeline": layout.pipeline,
            "data": layout.data,
            "furthest_from_published": max(map(abs, off)),
        }
    )


def draw(run, found):
    """Every layout that fits: memory against the share of the peak."""
    fig, ((ax,),) = plots.figure()
    for t in sorted({layout.tensor for layout, _ in found}):
        points = [(cost.memory / 1e9, cost.mfu) for layout, cost in found if layout.tensor == t]
        ax.plot(*zip(*points, strict=True), "o", markersize=4, label=f"tensor {t}")
    ax.set(xlabel="GB on each GPU", ylabel="share of the peak (MFU)", ylim=(0, None))
    plots.legend(ax)
    run.say(f"picture: {plots.save(fig, run.folder / 'layouts.png')}")


if __name__ == "__main__":
    script(main, PRESETS)
