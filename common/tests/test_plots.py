"""common/plots.py: drawn is what was given, files are whole, matplotlib's own state stays as it was."""

from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from PIL import Image

from common import plots


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_figure_is_a_grid_of_dressed_axes():
    fig, axes = plots.figure(2, 3, width=6, height=4)
    assert axes.shape == (2, 3)
    assert fig.get_size_inches().tolist() == [6, 4]
    for ax in axes.flat:
        assert not ax.spines["top"].get_visible()
        assert ax.title.get_fontsize() >= 12 and ax.xaxis.label.get_fontsize() >= 11
    assert plots.figure(projection="3d")[1][0, 0].name == "3d"


def test_global_state_is_untouched():
    before = dict(matplotlib.rcParams)
    plots.figure(projection="3d")
    assert dict(matplotlib.rcParams) == before


def test_colours_differ_for_colour_blind_readers():
    """Under simulated red-blindness and green-blindness (Viénot et al. 1999) all pairs stay apart."""
    rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in plots.COLOURS]) ** 2.2
    blind = {"red": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
             "green": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]}  # fmt: skip
    for kind, matrix in blind.items():
        seen = np.clip(rgb @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(len(rgb), 1)]
        assert apart.min() > 0.07, f"two colours look alike without {kind}"


def test_loss_curve_holds_its_data():
    train, val = ([1, 2, 3], [3.0, 2.0, 1.0]), ([0, 3], [4.0, 1.5])
    fig = plots.loss_curve(train, val, title="t", levels={"blind": 4.17})
    (ax,) = fig.axes
    train, val, level = ax.lines
    assert train.get_ydata().tolist() == [3, 2, 1] and val.get_xdata().tolist() == [0, 3]
    assert list(level.get_ydata()) == [4.17, 4.17]
    assert ax.get_ylabel() == "loss, nats per character"
    assert "blind" in [text.get_text() for text in ax.texts]


def test_heatmap_shades_by_value():
    _, ((ax,),) = plots.figure()
    picture = plots.heatmap(ax, [[0.0, 1.0], [0.5, 0.25]], x=("a", "b"), y=("c", "d"), title="who")
    assert picture.get_array().tolist() == [[0, 1], [0.5, 0.25]]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b"]
    shades = [sum(picture.cmap(picture.norm(value))[:3]) for value in (0.0, 0.25, 0.5, 1.0)]
    assert shades == sorted(shades, reverse=True)  # more is darker


def test_bars_stand_in_groups():
    """Each name has one colour and its place in every group that has it; heights are written on top."""
    _, ((ax,),) = plots.figure()
    plots.bars(ax, {"real": {"ours": 1.5, "theirs": 2.0}, "made-up": {"theirs": 3.0}})
    ours, theirs = ax.containers
    assert [bar.get_height() for bar in ours] == [1.5] and [bar.get_height() for bar in theirs] == [2.0, 3.0]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in (*ours, *theirs)]
    assert middles == pytest.approx([-0.2, 0.2, 1.2])
    assert [text.get_text() for text in ax.texts] == ["1.5", "2", "3"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["real", "made-up"]


def test_save_writes_the_whole_file_or_none(tmp_path, monkeypatch):
    fig, _ = plots.figure()
    path = plots.save(fig, tmp_path / "new" / "a.png")
    assert pixels(path).shape == (546, 910, 3)
    before = path.read_bytes()
    assert plots.save(fig, path).read_bytes() == before  # the same figure, the same bytes

    def full_disk(part, **how):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fig, "savefig", full_disk)
    with pytest.raises(OSError, match="No space"):
        plots.save(fig, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("values, named, unnamed", [
    ((14, 45), ["20", "30", "40"], []), ((0.01, 5000), ["0.01", "1,000"], []),
    ((1, 1e6), ["1"], ["1,000,000"]),
])  # fmt: skip
def test_a_logarithmic_axis_counts_in_plain_numbers(values, named, unnamed, tmp_path):
    fig, ((ax,),) = plots.figure()
    ax.plot(values, values)
    ax.set(xscale="log", yscale="log")
    ax.set_yticks([2.0], ["two"])
    plots.save(fig, tmp_path / "a.png")
    seen = {label.get_text() for which in ("major", "minor") for label in ax.get_xticklabels(which=which)}
    assert set(named) <= seen and not seen & set(unnamed)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["two"]  # chosen by hand: left alone


def test_a_logarithmic_axis_of_doublings(tmp_path):
    fig, ((ax,),) = plots.figure()
    ax.plot([0, 1], [0.1, 7])
    ax.set_yscale("log", base=2)
    plots.save(fig, tmp_path / "a.png")
    assert {"0.125", "0.5", "1", "4"} <= {label.get_text() for label in ax.get_yticklabels()}


def test_animate_shows_every_frame(tmp_path):
    def draw(i):
        fig, ((ax,),) = plots.figure(width=2, height=2)
        ax.plot([0, 1], [0, i])
        return fig

    film = Image.open(plots.animate(draw, 3, tmp_path / "film.gif", seconds=0.2))
    assert (film.n_frames, film.info["duration"], film.info["loop"]) == (3, 200, 0)
    frames = []
    for i in range(3):
        film.seek(i)
        frames.append(np.asarray(film.convert("RGB")))
    assert all((a != b).any() for a, b in pairwise(frames))
