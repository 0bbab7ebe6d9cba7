"""One look for every picture: quiet axes, large type, colours that colour-blind readers can tell apart.

Nothing here leaves a trace in matplotlib's global state: a figure is an object, and `save` writes it whole.
"""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import patheffects, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from common.files import whole_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")  # Okabe & Ito 2008
INK, QUIET, GRID = "#222222", "#777777", "#E8E8E8"


def figure(rows: int = 1, columns: int = 1, *, width=7.0, height=4.2, projection: str | None = None):
    """(fig, axes): axes is an array (rows, columns), dressed in the house look; sizes in inches."""
    fig = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")
    with rc_context({"grid.color": GRID}):  # a 3D axis asks for its grid's colour once, when it is made
        axes = fig.subplots(rows, columns, squeeze=False, subplot_kw={"projection": projection})
    for ax in axes.flat:
        dress(ax)
    return fig, axes


def dress(ax) -> None:
    """Large type, no box, a faint grid behind the lines."""
    ax.set_prop_cycle(color=COLOURS)
    ax.tick_params(labelsize=11, colors=INK, length=0)
    for text, size in ((ax.xaxis.label, 12), (ax.yaxis.label, 12), (ax.title, 13)):
        text.set(size=size, color=INK)
    if ax.name != "3d":
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(QUIET)
        ax.grid(color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)


def legend(ax, **where) -> None:
    """A legend without a frame."""
    ax.legend(frameon=False, fontsize=11, labelcolor=INK, **where)


def level(ax, value: float, name: str) -> None:
    """A dashed line across `ax` at a height worth knowing, with its name at the right end."""
    ax.axhline(value, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    ax.annotate(name, (1, value), xycoords=("axes fraction", "data"), xytext=(0, 3),
                textcoords="offset points", ha="right", va="bottom", size=10.5, color=QUIET,
                path_effects=[patheffects.withStroke(linewidth=3, foreground="white")])  # legible on bars


def loss_curve(train: tuple[Sequence, Sequence], val: tuple[Sequence, Sequence], *, title: str = "",
               unit: str = "nats per character", levels: Mapping[str, float] | None = None) -> Figure:
    """Loss against step: (steps, losses) of training batches, and of validation; named levels as dashes."""
    fig, ((ax,),) = figure()
    ax.plot(*train, color=COLOURS[5], linewidth=0.8, alpha=0.7, label="training batches")
    ax.plot(*val, color=COLOURS[0], linewidth=2.2, marker="o", markersize=5, label="validation")
    for name, value in (levels or {}).items():
        level(ax, value, name)
    ax.set(xlabel="step", ylabel=f"loss, {unit}", title=title)
    ax.margins(x=0.02)
    legend(ax)
    return fig


def heatmap(ax, table, *, x: Sequence[str] = (), y: Sequence[str] = (), title="", low=0.0, high=None):
    """A table (rows, columns) as shades of blue on `ax`; x and y name its columns and rows where given."""
    picture = ax.imshow(np.asarray(table), cmap="Blues", vmin=low, vmax=high, interpolation="nearest")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xticks(range(len(x)), x)
    ax.set_yticks(range(len(y)), y)
    ax.set_title(title)
    return picture


def bars(ax, groups: Mapping[str, Mapping[str, float]], *, label: str = "{:.3g}") -> None:
    """Bars side by side: groups {group: {name: height}}, a colour for each name, heights written on top."""
    names = list(dict.fromkeys(name for heights in groups.values() for name in heights))
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        there = [(i, heights[name]) for i, heights in enumerate(groups.values()) if name in heights]
        places = [i + width * (k - (len(names) - 1) / 2) for i, _ in there]
        drawn = ax.bar(places, [height for _, height in there], width=0.92 * width, label=name)
        ax.bar_label(drawn, [label.format(height) for _, height in there], padding=2, fontsize=10, color=INK)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.grid(False, axis="x")
    ax.margins(y=0.12)


class PlainLog(LogFormatterSciNotation):
    """Labels of a logarithmic axis: 0.02, 5, 4,000; powers of ten only where one would count zeros."""

    def __call__(self, x, pos=None):
        power = super().__call__(x, pos)  # empty where a label would be one too many
        return f"{x:,g}" if power and 1e-3 <= abs(x) < 1e5 else power


def plain_numbers(axis) -> None:
    """Mend the labels of an axis if they are powers of ten that nobody chose."""
    how = {"base": getattr(axis.get_transform(), "base", 10), "labelOnlyBase": False}
    if type(axis.get_major_formatter()) is LogFormatterSciNotation:
        axis.set_major_formatter(PlainLog(**how))
    if type(axis.get_minor_formatter()) is LogFormatterSciNotation:
        axis.set_minor_formatter(PlainLog(**how))


def save(fig: Figure, path: Path | str) -> Path:
    """Write a PNG, all of it or nothing; returns the path."""
    for ax in fig.axes:
        plain_numbers(ax.xaxis)
        plain_numbers(ax.yaxis)
    with whole_file(path) as part:
        fig.savefig(part, format="png", metadata={"Software": None})
    return Path(path)


def animate(draw: Callable[[int], Figure], frames: int, path: Path | str, *, seconds: float = 0.08) -> Path:
    """Write a GIF that repeats: `draw(i)` gives the picture of frame i, each shown for so many seconds."""
    from PIL import Image
    pictures = []
    for i in range(frames):
        page = BytesIO()
        draw(i).savefig(page, format="png", dpi=72)
        pictures.append(Image.open(page).convert("P", palette=Image.Palette.ADAPTIVE, colors=32))
    with whole_file(path) as part:
        pictures[0].save(part, "GIF", save_all=True, append_images=pictures[1:], loop=0,
                         duration=round(1000 * seconds))
    return Path(path)
