"""What a run says at its end: the loss by ranges of steps, how fast it was, what it holds, and pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from common import plots
from common.device import matmul_parameters, mfu, model_flops, peak_flops, peak_memory
from common.model import GPT
from common.progress import History


class Range(NamedTuple):
    """The losses of a range of steps, both ends included.

    noise is the standard deviation about the range's own straight line: what is left once the slope is gone.
    """

    first: int
    last: int
    mean: float
    sd: float
    cv: float
    noise: float


def ranges(steps: Sequence[int], losses: Sequence[float], parts: int = 5) -> list[Range]:
    """The run in equal parts of at least three records each; one part where there are fewer."""
    steps, losses = np.asarray(steps), np.asarray(losses, float)
    parts = max(1, min(parts, len(losses) // 3))
    table = []
    for at in np.array_split(np.arange(len(losses)), parts):
        x, y = steps[at], losses[at]
        line = np.polyval(np.polyfit(x, y, 1), x) if len(at) > 2 else y.mean()
        sd = y.std(ddof=1) if len(at) > 1 else 0.0
        noise = ((y - line) ** 2).sum() / max(1, len(at) - 2)
        table.append(Range(int(x[0]), int(x[-1]), y.mean(), sd, sd / y.mean(), noise**0.5))
    return table


def show_ranges(table: list[Range], say) -> None:
    """The table, and what its last two columns mean."""
    say(f"\n{'updates':>15}  {'mean loss':>9}  {'SD':>6}  {'CV':>6}  {'SD about the slope':>18}")
    for row in table:
        say(
            f"{row.first:7,} - {row.last:5,}  {row.mean:9.3f}  {row.sd:6.3f}  {row.cv:6.1%}  "
            f"{row.noise:18.3f}"
        )
    say(
        "A loss that falls within a range has a large SD, and so a large CV, however smoothly it falls: CV "
        "shows\nmostly the slope. The last column is what batches differ by once the slope is taken away."
    )


def speed(
    model: GPT, tokens_per_s: float, device: torch.device, precision: str, world: int = 1
) -> dict[str, float]:
    """{"tokens_per_s", "mfu", "peak_memory_bytes"}: of all processes; MFU against the device's peak."""
    size = model.config
    flops = model_flops(matmul_parameters(model), size.n_layer, size.n_head * size.head_dim, size.max_seq_len)
    peak, _ = peak_flops(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    return {
        "tokens_per_s": tokens_per_s,
        "mfu": mfu(flops, tokens_per_s, world * peak),
        "peak_memory_bytes": peak_memory(device),
    }


def curves(history: History, title: str):
    """Loss above, learning rate and gradient norm below, over the updates."""
    fig, axes = plots.figure(3, 1, height=7.5)
    (loss,), (rate,), (norm,) = axes
    loss.plot(*history.series("loss"), color=plots.COLOURS[5], linewidth=0.8, label="training batches")
    loss.plot(
        *history.series("val_loss"), color=plots.COLOURS[0], linewidth=2.2, marker="o", label="unseen text"
    )
    plots.legend(loss)
    rate.plot(*history.series("lr"), color=plots.COLOURS[2])
    norm.plot(*history.series("grad_norm"), color=plots.COLOURS[1], linewidth=0.8)
    loss.set(ylabel="nats per token", title=title)
    rate.set(ylabel="learning rate")
    norm.set(ylabel="gradient norm", xlabel="update", yscale="log")
    return fig
